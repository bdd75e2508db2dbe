"""Images and volumes larger than memory: parts stream through a model, their objects become those of the whole.

`star` and `flow` are the ways from tiles to objects, `planes` is that from planes to objects of a volume. `flow_volume`
keeps what a network says of a volume in a file, of which `flow_masks` makes labels block by block; `bricks` are such
files, `tally` and `cavities` what cleaning labels takes. `source` and `sink` are where pixels come from and labels go;
`journal` keeps what is finished, so that an interrupted run goes on. Knows neither models nor sessions: the network is
a function here.
"""
