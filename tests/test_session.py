"""Execution providers: how they are named, and that none which was asked for is left out in silence."""

import logging

import pytest

import cellrt
from cellrt import session
from cellrt.errors import ModelError, ProviderError
from cellrt.session import Session

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"


class Machine:
    """ONNX Runtime as on a machine with other hardware: a stand-in that makes its sessions on the CPU.

    `available` are the providers that it was built with, `working` those that become active; `broken` raise.
    """

    def __init__(self, monkeypatch, available, working, broken=()):
        self._real = session._onnxruntime()
        self.asked, self.broken, self.available, self.working = [], broken, available, working
        monkeypatch.setattr(session, "_onnxruntime", lambda: self)

    def __getattr__(self, name):
        return getattr(self._real, name)

    def get_available_providers(self):
        return list(self.available)

    def InferenceSession(self, content, *, providers, **options):
        assert options["enable_fallback"] is False
        self.asked.append(dict(providers))
        names = [name for name, _ in providers]
        if any(name in self.broken for name in names):
            raise RuntimeError(f"{names[0]}: no such device\nand a stack trace")
        made = self._real.InferenceSession(content, providers=[CPU], **options)
        active = [name for name in names if name in self.working]
        made.get_providers = lambda: [*active, *([CPU] if CPU not in active else [])]
        return made


@pytest.fixture(scope="module")
def path():
    return cellrt.bundled_models()["nuclei"]


@pytest.mark.parametrize(
    ("providers", "options"),
    [
        (["cuda", "cpu"], {CUDA: {"cudnn_conv_algo_search": "HEURISTIC"}, CPU: {}}),
        ("cuda:device_id=1", {CUDA: {"cudnn_conv_algo_search": "HEURISTIC", "device_id": "1"}}),
        ([("cuda", {"device_id": 1})], {CUDA: {"cudnn_conv_algo_search": "HEURISTIC", "device_id": "1"}}),
        ([(CUDA, {"cudnn_conv_algo_search": "DEFAULT"})], {CUDA: {"cudnn_conv_algo_search": "DEFAULT"}}),
        (["OpenVINO:device_type=GPU:precision=FP16"], {OPENVINO: {"device_type": "GPU", "precision": "FP16"}}),
        (["tensorrt", "cuda"], {TENSORRT: {}, CUDA: {"cudnn_conv_algo_search": "HEURISTIC"}}),
    ],
)
def test_names_and_options(path, monkeypatch, providers, options):
    machine = Machine(monkeypatch, [TENSORRT, CUDA, OPENVINO, CPU], [TENSORRT, CUDA, OPENVINO])
    opened = Session(path, providers=providers)
    assert machine.asked == [options]
    assert list(machine.asked[0]) == list(options)
    assert opened.providers == tuple(dict.fromkeys([*options, CPU]))


@pytest.mark.parametrize(
    "provider", [":device_id=1", "cuda:", "cuda:device_id", "cuda:=1", ("cuda",), ("cuda", "1"), ("cuda", 1), 3, None]
)
def test_what_is_no_provider_is_refused(path, monkeypatch, provider):
    Machine(monkeypatch, [CUDA, CPU], [CUDA])
    with pytest.raises(ProviderError, match=r"expected a provider as .*device_id.* got"):
        Session(path, providers=[provider])


def test_a_provider_is_asked_for_once(path, monkeypatch):
    Machine(monkeypatch, [CUDA, CPU], [CUDA])
    with pytest.raises(ProviderError, match="expected each provider once, got CUDAExecutionProvider twice"):
        Session(path, providers=["cuda:device_id=1", CUDA])


@pytest.mark.parametrize(
    ("working", "providers", "missing"),
    [((), ["cuda"], CUDA), ((CUDA,), ["tensorrt", "cuda"], TENSORRT), ((TENSORRT,), ["tensorrt", "cuda", "cpu"], CUDA)],
)
def test_each_provider_that_was_asked_for_must_be_active(path, monkeypatch, working, providers, missing):
    Machine(monkeypatch, [TENSORRT, CUDA, CPU], working)
    with pytest.raises(ProviderError, match=f"expected provider {missing} to be active, got .*{CPU}"):
        Session(path, providers=providers)


def test_a_provider_that_cannot_open_the_model_is_said_with_its_reason(path, monkeypatch):
    Machine(monkeypatch, [CUDA, CPU], [CUDA], broken=[CUDA])
    with pytest.raises(ProviderError, match=f"expected providers {CUDA}, {CPU} to open the model, got: .*no such dev"):
        Session(path, providers=["cuda", "cpu"])
    with pytest.raises(ModelError, match="expected a whole ONNX model, got 7 bytes"):  # the model's fault, not CUDA's
        Session(b"garbage", providers=["cuda", "cpu"])


@pytest.mark.parametrize("broken", [(), (CUDA,)])
def test_the_default_falls_back_with_a_warning(path, monkeypatch, caplog, capfd, broken):
    Machine(monkeypatch, [CUDA, CPU], [], broken=broken)
    with caplog.at_level(logging.WARNING):
        assert Session(path).providers == (CPU,)
    assert caplog.messages == [f"{CUDA} is installed but does not work here; running on the CPU"]
    assert capfd.readouterr().out == ""
