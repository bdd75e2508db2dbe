"""The only importer of onnxruntime: a model file -> a session that runs batches.

Knows providers, threads and memory; never cells. A session may be used by several threads at once; `run` releases the
GIL.

What a run needed is kept for the next one of the same shape: to ask the system for it again costs up to 0.7 times the
run itself (page faults). Batches of another shape, and `release`, give it back.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CellrtError, FileError, ModelError, ProviderError

_log = logging.getLogger(__name__)

Outputs = dict[str, NDArray[np.float32]]  # by name

INPUT = "image"  # the graph's input, float32 (N, C, Y, X)

# Short names for the command line and for people; ONNX Runtime's own names are understood as well.
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}

# Tiles of several shapes come by: a search for the fastest convolution per shape would cost more than it gains.
_OPTIONS: dict[str, dict[str, str]] = {"CUDAExecutionProvider": {"cudnn_conv_algo_search": "HEURISTIC"}}


Providers = Sequence[str | tuple[str, Mapping[str, Any]]]  # names, or pairs of a name and options


class Session:
    """An ONNX file, ready to run.

    Parameters
    ----------
    model : bytes or path
        The file or its content.
    providers : sequence of str or (str, mapping), optional
        Execution providers in order of preference: "cpu", "cuda", "tensorrt", "openvino", "coreml", "directml", or
        ONNX Runtime's names; with options of ONNX Runtime as a pair, ``("cuda", {"device_id": 1})``, or behind colons,
        "openvino:device_type=GPU:precision=FP16". Each one that does not become active is an error. Default: CUDA
        where it works, else the CPU.
    threads : int, optional
        Threads of the network on the CPU. Default: all usable cores.

    Attributes
    ----------
    providers : tuple of str
        The providers that are active.
    metadata : mapping of str to str
        The file's `metadata_props`.

    Raises
    ------
    ProviderError
        If ONNX Runtime is missing or a provider that was asked for is not to be had.
    ModelError
        If the file is not a model that ONNX Runtime can load.
    """

    def __init__(
        self, model: bytes | str | Path, *, providers: Providers | None = None, threads: int | None = None
    ) -> None:
        if threads is not None and threads < 0:
            raise CellrtError(f"expected threads of at least 0 (0: all usable cores), got {threads}")
        ort = _onnxruntime()
        wanted = _choose_providers(ort, providers)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or kernels.usable_cores()
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # errors arrive as exceptions; nothing is printed into a host's terminal
        # Our kernels run between two calls: threads that spin while they wait would take the cores from them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Plans of past shapes are kept for reuse otherwise, and images come in many shapes.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.use_env_allocators", "1")
        self._session = _open(ort, model, options, wanted, is_default=providers is None)
        self._shape: tuple[int, ...] = ()  # of the last batch
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        device = wanted.get(_PROVIDERS["cuda"], {}).get("device_id", "0")
        arenas = f"cpu:0;gpu:{device}" if _PROVIDERS["cuda"] in self.providers else "cpu:0"
        self._give_back = ort.RunOptions()
        self._give_back.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)
        self._give_back.terminate = True
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        if missing := [name for name in wanted if name not in self.providers]:
            if providers is not None:
                raise ProviderError(
                    f"expected provider {missing[0]} to be active, got {', '.join(self.providers)}; check its drivers "
                    "and libraries, or ask for another provider"
                )
            _log.warning("%s is installed but does not work here; running on the CPU", missing[0])

    @property
    def inputs(self) -> dict[str, list[Any]]:
        """Names and shapes of the graph's inputs; a string or None stands for a free dimension."""
        return {node.name: list(node.shape) for node in self._session.get_inputs()}

    @property
    def outputs(self) -> dict[str, list[Any]]:
        """Names and shapes of the graph's outputs."""
        return {node.name: list(node.shape) for node in self._session.get_outputs()}

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        """Run the network on a batch, float32 (N, C, Y, X); returns its outputs by name.

        They lie in ONNX Runtime's memory where it allows that: those that are kept are not there for the next run.
        """
        if batch.shape[1:] != self._shape[1:]:
            self.release()  # blocks of one shape rarely serve another: images of many shapes would pile them up
        self._shape = batch.shape
        try:
            binding = self._session.io_binding()
            binding.bind_cpu_input(INPUT, batch)
            for name in self.outputs:
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
            return {name: value.numpy() for name, value in zip(self.outputs, binding.get_outputs(), strict=True)}
        except Exception as error:
            raise CellrtError(
                f"expected the network to run on a batch of shape {batch.shape}, got: {_first_line(error)}; if memory "
                "is short, ask for smaller tiles or batches"
            ) from error

    def release(self) -> None:
        """Give the memory of past runs back to the system; the next run takes new."""
        shape, self._shape = self._shape, ()
        if shape:
            # The arena shrinks at the end of a run only. This one ends before its first layer, with an error.
            with contextlib.suppress(Exception):
                self._session.run(None, {INPUT: np.zeros(shape, np.float32)}, self._give_back)


@functools.cache
def _onnxruntime() -> Any:
    """The module, its CPU arena set up, or an error that says how to install it."""
    try:
        import onnxruntime as ort  # here: it takes longer to import than everything else together
    except ImportError as error:
        raise ProviderError(
            'expected ONNX Runtime to be installed, got none; run: pip install "cellrt[cpu]" (CUDA: "cellrt[gpu]")'
        ) from error
    # The arena grows by what is asked for (1) instead of to the next power of two: a third less memory at the peak.
    ort.create_and_register_allocator(
        ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT),
        ort.OrtArenaCfg({"arena_extend_strategy": 1}),
    )
    return ort


def _choose_providers(ort: Any, providers: Providers | None) -> dict[str, dict[str, str]]:
    """ONNX Runtime's names of the providers to ask for, in order, with their options."""
    available = ort.get_available_providers()
    if providers is None:
        names = [name for name in (_PROVIDERS["cuda"], _PROVIDERS["cpu"]) if name in available]
        return {name: _OPTIONS.get(name, {}) for name in names}
    if isinstance(providers, str):
        providers = [providers]
    wanted: dict[str, dict[str, str]] = {}
    for provider in providers:
        short, options = _with_options(provider)
        name = _PROVIDERS.get(short.lower(), short)
        if name not in available:
            raise ProviderError(
                f"expected one of the providers {', '.join(available)}, got {name}; install the ONNX Runtime that has "
                'it (CUDA: pip install "cellrt[gpu]")'
            )
        if name in wanted:
            raise ProviderError(f"expected each provider once, got {short} twice; leave one out")
        wanted[name] = _OPTIONS.get(name, {}) | options
    if not wanted:
        raise ProviderError("expected at least one provider, got none; leave providers out for the default")
    return wanted


def _with_options(provider: object) -> tuple[str, dict[str, str]]:
    """The name and the options of "cuda", "cuda:device_id=1" or ("cuda", {"device_id": 1})."""
    if isinstance(provider, str):
        name, *texts = provider.split(":")
        pairs = [text.partition("=") for text in texts]
        if name and all(key and equals and value for key, equals, value in pairs):
            return name, {key: value for key, _, value in pairs}
    elif isinstance(provider, (tuple, list)) and len(provider) == 2:
        name, options = provider
        if isinstance(name, str) and isinstance(options, Mapping):
            return name, {str(key): str(value) for key, value in options.items()}
    raise ProviderError(
        'expected a provider as "cuda", with options as "cuda:device_id=1" or ("cuda", {"device_id": 1}), got '
        f"{provider!r}; correct it"
    )


def _open(
    ort: Any, model: bytes | str | Path, options: Any, wanted: Mapping[str, dict[str, str]], *, is_default: bool
) -> Any:
    """ONNX Runtime's session of a model; of one on the CPU, with a warning, where the default provider fails."""
    source, content = _content(model)

    def attempt(providers: Mapping[str, dict[str, str]]) -> Any:
        # Without its fallback, which prints on stdout and goes on with other providers than were asked for.
        return ort.InferenceSession(
            content, sess_options=options, providers=list(providers.items()), enable_fallback=False
        )

    try:
        return attempt(wanted)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        only_cpu = {_PROVIDERS["cpu"]: dict[str, str]()}
        reason = error
        if wanted != only_cpu:  # is it the provider or the model?
            try:
                session = attempt(only_cpu)
            except Exception as fault:
                reason = fault
            else:
                if is_default:
                    return session
                raise ProviderError(
                    f"expected providers {', '.join(wanted)} to open the model, got: {_first_line(error)}; check their "
                    "options, drivers and libraries, or ask for another provider"
                ) from error
        raise ModelError(
            f"expected a whole ONNX model, got {source} that ONNX Runtime cannot load ({_first_line(reason)}); copy or "
            "export it again"
        ) from error


def _content(model: bytes | str | Path) -> tuple[str, bytes | str]:
    """What to call the model in a message, and what ONNX Runtime is given: a file by its path, so that large ones are
    not held in memory twice, and weights in a second file beside it are found."""
    if isinstance(model, bytes):
        return f"{len(model)} bytes", model
    try:
        with Path(model).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise FileError(f"expected a model file, got {model} ({error.strerror}); check the path") from error
    return str(model), str(model)


def _first_line(error: Exception) -> str:
    """The first line of a message of ONNX Runtime."""
    return str(error).strip().split("\n", 1)[0]
