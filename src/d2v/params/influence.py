"""Which parameters influence a run's numbers: changing another reruns nothing."""

from typing import Any

from d2v.params.finetuning import Finetune
from d2v.params.pretraining import Pretrain

# where and how a run is shown or carried out, what only says what is so, and what only ends runs
# that went wrong
NEUTRAL = {
    "seeds", "cpus", "table", "row", "column", "note", "stand_in", "arms", "settings", "grid",
    "chosen_on_test", "collapse",
}  # fmt: skip
NEUTRAL_TRAIN = {
    "log_every", "checkpoint_every", "checkpoint_minutes", "workers", "compile", "recompute",
    "shard", "rebound",
}  # fmt: skip
# what published weights take the place of. The rest stays: it says what a checkpoint reads
NOT_TRAINED = {"split", "start_from", "target", "loss", "mask", "optimiser", "schedule", "train"}
# the same of weights that are only evaluated; train says in which batches
NOT_TUNED = {
    "train_split", "labels", "freeze_steps", "optimiser", "schedule", "validate_every", "keep",
    "dropout", "encoder_dropout", "attention_dropout", "activation_dropout", "drop_path",
    "layer_drop",
}  # fmt: skip


def influential(p: Pretrain | Finetune) -> dict[str, Any]:
    """The parameters of a run that its numbers depend on, as plain JSON values."""
    values = p.model_dump(mode="json", exclude=NEUTRAL)
    values["train"] = {k: v for k, v in values["train"].items() if k not in NEUTRAL_TRAIN}
    if p.released is None:
        del values["released"]
    else:
        del values["released"]["url"]
    unused = _of_pretraining(p, values) if isinstance(p, Pretrain) else _of_finetuning(p, values)
    return {key: value for key, value in values.items() if key not in unused}


def _of_pretraining(p: Pretrain, values: dict[str, Any]) -> set[str]:
    """Keys without influence; those in groups are removed."""
    if p.ema.anneal_steps == 0:  # constant at its end
        del values["ema"]["start"], values["ema"]["first"]
    return NOT_TRAINED if p.released is not None else set()


def _of_finetuning(p: Finetune, values: dict[str, Any]) -> set[str]:
    """Keys without influence; headings of columns are removed."""
    values["more"] = sorted(set(p.more.values()))
    if p.released is not None:
        return NOT_TUNED
    return {"validate_every"} if p.keep == "last" else set()
