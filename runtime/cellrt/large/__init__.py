"""Images larger than memory: tiles stream through a model, their objects become those of the whole image.

`star` and `flow` are the two ways from tiles to objects; `source` and `sink` are where pixels come from and labels go;
`journal` keeps what is finished, so that an interrupted run goes on. Knows neither models nor sessions: the network is
a function here.
"""
