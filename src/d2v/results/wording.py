"""Fixed texts of the tables: titles and units of reported values."""

# place in the paper, what is measured, data set
TITLES: dict[str, tuple[str, str, str]] = {
    "imagenet": ("Table 1", "image classification", "ImageNet-1K"),
    "librispeech": ("Table 2", "speech recognition", "LibriSpeech test-other"),
    "audioset": ("Table 3", "audio event classification", "AudioSet evaluation set"),
    "glue": ("Table 4", "language understanding", "GLUE development sets"),
    "ablation_layers": ("Figure 2", "number K of averaged target layers", "reduced settings"),
    "ablation_targets": ("Table 5", "layer feature used as target", "LibriSpeech dev-other"),
    "ablation_loss": ("Table 7", "loss function", "LibriSpeech dev-other"),
    "ablation_masks": ("Table 8", "mask probability and length", "LibriSpeech dev-other"),
    "ablation_context": ("Figure 3", "context visible to the teacher", "LibriSpeech dev-other"),
}
# short names for a table of contents
SHORT: dict[str, str] = {
    "imagenet": "Images",
    "librispeech": "Speech",
    "audioset": "Sounds",
    "glue": "Language",
    "ablation_layers": "Averaged layers",
    "ablation_targets": "Targets",
    "ablation_loss": "Loss",
    "ablation_masks": "Masks",
    "ablation_context": "Context",
}
REPORTED_UNITS: dict[str, str] = {
    "imagenet": "Top-1 accuracy in % ↑ on ImageNet-1K validation images.",
    "librispeech": "Word error rate in % ↓ on test-other by amount of labelled speech, with a"
    " 4-gram language model. Unlabelled speech: LS-960 = LibriSpeech, 960 h; LL-60K = Libri-light,"
    " 60,000 h; MIX-94K = 94,000 h of several sources.",
    "audioset": "Mean average precision in % ↑ on the evaluation set, fine-tuned on the balanced"
    " subset. Pre-training data: AS = AudioSet, LS = LibriSpeech.",
    "glue": "Development sets ↑: accuracy in %; MRPC and QQP mean of accuracy and F1; STS-B mean of"
    " Pearson and Spearman ×100; CoLA Matthews ×100. The average is over eight tasks, MNLI being"
    " the mean of its two columns. data2vec: means over five fine-tuning runs.",
    "ablation_layers": "The paper gives these as curves only, so no value is printed here.",
    "ablation_context": "The paper gives these as a curve only, so no value is printed here.",
    "ablation_targets": "Word error rate in % ↓ on dev-other without a language model: 200K updates"
    " of pre-training, fine-tuning on 10 h.",
    "ablation_loss": "Word error rate in % ↓ on dev-other without a language model. The setup"
    " differs from that of Table 5 and is not fully described: compare only within this table.",
    "ablation_masks": "Word error rate in % ↓ on dev-other without a language model. The setup"
    " differs from that of Table 5 and is not fully described: compare only within this table.",
}


def number(value: float, form: str = "g") -> str:
    """A number for display, with a typographic minus sign."""
    return format(value, form).replace("-", "−")
