"""Parameters that influence a run's results; changing any other does not repeat the run."""

from typing import Any

from d2v.params.finetuning import Finetune
from d2v.params.model import InputTarget
from d2v.params.pretraining import Pretrain

# parameters that only say where and how a run is executed or shown, describe it, or stop it when it
# fails; of the pre-trainings of a task, a run's own is named by its run
NEUTRAL = {
    "seeds", "cpus", "table", "row", "column", "note", "stand_in", "arms", "settings", "grid",
    "chosen_on_test", "collapse", "baseline", "probe",
}  # fmt: skip
NEUTRAL_TRAIN = {
    "log_every", "checkpoint_every", "checkpoint_minutes", "workers", "compile", "cuda_graph",
    "recompute", "shard", "rebound", "probe_every",
}  # fmt: skip
# parameters that published weights replace; the others describe the input of the checkpoint
NOT_TRAINED = {"split", "start_from", "target", "loss", "mask", "optimiser", "schedule", "train"}
# parameters that have no use without a teacher
NO_TEACHER = {"regression", "ema"}
# parameters that published fine-tuned weights replace; `train` stays, since it defines the batches
NOT_TUNED = {
    "train_split", "labels", "freeze_steps", "optimiser", "schedule", "validate_every", "keep",
    "dropout", "encoder_dropout", "attention_dropout", "activation_dropout", "drop_path",
    "layer_drop",
}  # fmt: skip

# parameters added later, with the value that is the earlier behaviour: a run that has it has the
# fingerprint that it had before there was such a parameter
LATER = {
    "hidden": "replaced", "extra_tokens": 0, "fixed_positions": False, "input_norm": False,
    "prenet_depth": 0, "class_weight": 0.0, "decoder": None, "copies": 1, "mix_prob": 1.0,
    "lengths": None,
}  # fmt: skip


def without_later(values: Any) -> Any:
    """Plain JSON values without the parameters in LATER, where they keep the earlier behaviour."""
    if not isinstance(values, dict):
        return values
    return {
        key: without_later(value)
        for key, value in values.items()
        if key not in LATER or value != LATER[key]
    }


def influential(p: Pretrain | Finetune) -> dict[str, Any]:
    """Parameters on which a run's results depend, as plain JSON values."""
    values = p.model_dump(mode="json", exclude=NEUTRAL)
    values["train"] = {k: v for k, v in values["train"].items() if k not in NEUTRAL_TRAIN}
    if p.released is None:
        del values["released"]
    else:
        del values["released"]["url"]
    if values["view"].get("reduced"):  # the only behaviour of earlier versions
        del values["view"]["reduced"]
    unused = _of_pretraining(p, values) if isinstance(p, Pretrain) else _of_finetuning(p, values)
    return {key: value for key, value in values.items() if key not in unused}


def _of_pretraining(p: Pretrain, values: dict[str, Any]) -> set[str]:
    """Top-level keys without influence; nested ones are removed from `values`."""
    unused = NOT_TRAINED if p.released is not None else set()
    if isinstance(p.target, InputTarget):
        return unused | NO_TEACHER | ({"loss"} if p.target.classes else set())
    del values["target"]["kind"]  # runs that were finished before there was a choice stay valid
    if p.ema.anneal_steps == 0:  # the decay is constant at `end`
        del values["ema"]["start"], values["ema"]["first"]
    return unused


def _of_finetuning(p: Finetune, values: dict[str, Any]) -> set[str]:
    """Top-level keys without influence; column headings are removed from `values`."""
    values["more"] = sorted(set(p.more.values()))
    if p.released is not None:
        return NOT_TUNED
    return {"validate_every"} if p.keep == "last" else set()
