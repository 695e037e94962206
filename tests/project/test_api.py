"""The public Python API: names and signatures. A change needs an entry in CHANGELOG.md."""

import inspect
import subprocess
import sys
import time

import pytest

import d2v

SIGNATURES = {
    "classify": "(model, inputs, batch_size=None)",
    "convert": "(source, to, out=None, drop_head=False, say=False)",
    "features": '(model, inputs, layers="all", pool=None, batch_size=None, progress=False)',
    "finetune": "(model, train, dev=None, test=None, *, task, steps=1000, lr=0.0001, batch=16,"
    " seed=0, out=None, callbacks=())",
    "load": "(path, device=None, dtype=None)",
    "pretrain": "(recipe, data=None, *, name=None, seed=0, out=None, callbacks=())",
    "probe": "(model, train, dev=None, test=None, *, layers=\"all\", positions='mean',"
    " neighbours=10, c=(0.001, 0.01, 0.1, 1.0, 10.0), batch_size=None)",
    "save_features": "(model, inputs, out, layers=\"all\", progress=<class 'iter'>)",
    "transcribe": "(model, inputs, lm=None, decode=None, batch_size=None)",
}
METHODS = {
    ("Model", "features"): '(self, inputs, layers="all", pool=None, batch_size=None,'
    " progress=False)",
    ("Model", "hidden"): "(self, batch, alone=False)",
    ("Probes", "table"): "(self)",
    ("Result", "predictions"): '(self, split="dev")',
    ("Result", "model"): "(self)",
}
ATTRIBUTES = {
    "Class": {"name", "prediction", "scores"},
    "Features": {"name", "hidden", "logits", "states"},
    "Probes": {"knn", "linear", "weighted", "weights", "best", "details", "table"},
    "Result": {"metrics", "checkpoint", "folder", "details", "log", "predictions", "model"},
}
FAST_S = 0.1


def shown(function: object) -> str:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(bare)).replace("'all'", '"all"').replace("'dev'", '"dev"')


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    wanted = SIGNATURES[name].replace("<class 'iter'>", shown(lambda x=iter: x)[3:-1])
    assert shown(getattr(d2v, name)) == wanted


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_methods(kind: str, name: str) -> None:
    assert shown(getattr(getattr(d2v, kind), name)) == METHODS[kind, name]


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_attributes(kind: str) -> None:
    found = getattr(d2v, kind)
    public = {name for name in dir(found) if not name.startswith("_")}
    assert public | set(found.__dataclass_fields__) == ATTRIBUTES[kind]


def test_all_names_are_documented_and_none_is_left_out() -> None:
    assert set(d2v.__all__) == {*SIGNATURES, *ATTRIBUTES, "Model", "UserError"}
    for name in d2v.__all__:
        assert (getattr(d2v, name).__doc__ or "").strip(), name
    assert set(d2v.__all__) <= set(dir(d2v))


def test_annotations_are_complete() -> None:
    for name in SIGNATURES:
        signature = inspect.signature(getattr(d2v, name))
        untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
        assert not untyped, f"{name}: {untyped}"
        assert signature.return_annotation is not signature.empty


def test_importing_d2v_is_quick() -> None:
    """In time of the processor, the least of three, since other processes slow an import down."""
    code = "import time; t = time.process_time(); import d2v; print(time.process_time() - t)"
    taken = []
    for _ in range(3):
        taken.append(float(subprocess.check_output([sys.executable, "-c", code])))
        if taken[-1] < FAST_S:
            break
        time.sleep(0.2)
    assert min(taken) < FAST_S
