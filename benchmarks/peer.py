"""The peer: data2vec's pre-training step as one composes it from Hugging Face's modules.

`Data2Vec{Audio,Vision,Text}Model` as student, a deep copy in evaluation mode as teacher, forward
hooks for the feed-forward outputs that targets are made of (vision: `output_hidden_states`),
`torch.optim.AdamW` and a loop over parameters for the moving average; eager. It computes what this
project computes: with the same weights and without dropout the losses are equal
(tests/project/test_benchmarks.py). Nothing is slow on purpose: attention is PyTorch's fused kernel
(`sdpa`), the teacher runs under `no_grad`, the speech front end runs once for student and teacher,
and the regression head sees masked positions only.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from d2v import params
from d2v.interop import hf_config, huggingface, names
from d2v.interop.content import Architecture
from d2v.model.ema import decay

transformers.utils.logging.set_verbosity_error()
PAD = 1


class Peer(nn.Module):
    """Student, teacher and head; forward gives the summed loss and the number of positions."""

    config_class: Any
    model_class: Any
    shared: tuple[str, ...] = ()  # parameters that the teacher copies from the student

    def __init__(self, p: params.Pretrain) -> None:
        super().__init__()
        self.p = p
        self.student = self.build(p)
        self.head = head(p)
        self.teacher = copy.deepcopy(self.averaged()).requires_grad_(False).eval()
        self.kept: list[Tensor] = []
        for ffn in self.feed_forwards()[-p.target.top_k :]:
            ffn.register_forward_hook(lambda _, __, output: self.kept.append(output))

    def train(self, mode: bool = True) -> "Peer":
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def build(self, p: params.Pretrain, **more: Any) -> Any:
        """Hugging Face's model of the recipe's sizes and dropouts, with random weights."""
        values = hf_config.config(Architecture(encoder=p.encoder, backbone=p.backbone))
        values.pop("model_type")
        return self.model_class(self.config_class(**values), **more)

    def averaged(self) -> nn.Module:
        """What of the student the teacher is a copy of."""
        student: nn.Module = self.student
        return student

    def feed_forwards(self) -> list[nn.Module]:
        """The teacher's modules whose outputs are kept for targets."""
        return []

    def outputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The student's outputs and the targets at all positions, both (B, T, D)."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Summed loss and number of masked positions."""
        output, target = self.outputs(batch)
        masked = batch["masked"]  # positions: indexing with the mask would wait for a GPU
        prediction = self.head(output.flatten(0, 1)[masked]).float()
        target = target.flatten(0, 1)[masked]
        beta, channels = self.p.loss.beta, prediction.shape[-1]
        if beta:
            loss = F.smooth_l1_loss(prediction, target, reduction="sum", beta=beta)
        else:
            loss = F.mse_loss(prediction, target, reduction="sum")
        by = {"sum": 1.0, "sum_sqrt_dim": channels**-0.5, "mean": 1 / channels}
        return loss * by[self.p.loss.reduction], batch["mask"].sum()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """The moving average after the `step`-th optimiser step."""
        rate = decay(self.p.ema, step)
        theirs = dict(self.averaged().named_parameters())
        for name, mine in self.teacher.named_parameters():
            if name.startswith(self.shared):
                mine.copy_(theirs[name])
            else:
                mine.mul_(rate).add_(theirs[name], alpha=1 - rate)

    @torch.no_grad()
    def targets(self, *inputs: Tensor, **more: Any) -> Tensor:
        """Targets at all positions (B, T, D), from what the teacher makes of unmasked input."""
        self.look(*inputs, **more)
        p = self.p.target
        mean = sum(_normalised(x.float(), p.layer_norm) for x in self.kept) / p.top_k
        self.kept.clear()
        assert isinstance(mean, Tensor)
        return _normalised(mean, p.final_norm)

    def look(self, *inputs: Tensor, **more: Any) -> None:
        """Run the teacher; its top layers are in `kept` then."""
        self.teacher(*inputs, **more)


class WavePeer(Peer):
    """Features are computed once; the teacher is a copy of what comes after them."""

    config_class = transformers.Data2VecAudioConfig
    model_class = transformers.Data2VecAudioModel
    shared = ("pos_conv_embed",)

    def averaged(self) -> nn.Module:
        """Positions, norm and blocks."""
        encoder: nn.Module = self.student.encoder
        return encoder

    def feed_forwards(self) -> list[nn.Module]:
        """In evaluation mode there is no dropout after them."""
        return [layer.feed_forward for layer in self.teacher.layers]

    def front_end(self, batch: dict[str, Tensor]) -> Tensor:
        """Frames (B, T, D) of waveforms."""
        channels = self.student.feature_extractor(batch["waves"]).transpose(1, 2)
        features: Tensor = self.student.feature_projection(channels)[0]
        return features

    def outputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As Peer."""
        features = self.front_end(batch)
        target = self.targets(features.detach())
        mask = batch["mask"].unsqueeze(-1)
        hidden = torch.where(mask, self.student.masked_spec_embed, features)
        return self.student.encoder(hidden).last_hidden_state, target


class PatchPeer(Peer):
    """Targets are outputs of blocks, which `output_hidden_states` gives."""

    config_class = transformers.Data2VecVisionConfig
    model_class = transformers.Data2VecVisionModel

    def look(self, *inputs: Tensor, **more: Any) -> None:
        """Run the teacher and keep the patches' hidden states."""
        states = self.teacher(*inputs, output_hidden_states=True).hidden_states
        self.kept += [state[:, 1:] for state in states[-self.p.target.top_k :]]

    def outputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As Peer."""
        target = self.targets(batch["images"])
        output = self.student(batch["images"], bool_masked_pos=batch["mask"])
        return output.last_hidden_state[:, 1:], target


class TokenPeer(Peer):
    """The teacher has the student's embeddings."""

    config_class = transformers.Data2VecTextConfig
    model_class = transformers.Data2VecTextModel
    shared = ("embeddings",)

    def build(self, p: params.Pretrain, **more: Any) -> Any:
        """Without the pooling that is for classifying."""
        return super().build(p, add_pooling_layer=False)

    def feed_forwards(self) -> list[nn.Module]:
        """The second linear layers."""
        return [layer.output.dense for layer in self.teacher.encoder.layer]

    def outputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As Peer."""
        seen, tokens = batch["masked_tokens"], batch["tokens"]
        target = self.targets(tokens, attention_mask=tokens != PAD)
        return self.student(seen, attention_mask=seen != PAD).last_hidden_state, target


PEERS: dict[type, type[Peer]] = {
    params.WaveEncoder: WavePeer,
    params.PatchEncoder: PatchPeer,
    params.TokenEncoder: TokenPeer,
}


def build(p: params.Pretrain) -> Peer:
    """The peer of a recipe."""
    return PEERS[type(p.encoder)](p)


def _normalised(x: Tensor, kind: str) -> Tensor:
    if kind == "instance":
        return F.instance_norm(x.transpose(1, 2)).transpose(1, 2)
    return F.layer_norm(x, x.shape[-1:]) if kind == "layer" else x


def head(p: params.Pretrain) -> nn.Module:
    """The regression head, as the recipe wants it."""
    dim = p.backbone.dim
    if p.regression == "mlp":
        return nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
    return nn.Linear(dim, dim)


def take_over(peer: Peer, ours: Mapping[str, Tensor]) -> None:
    """Give the peer this project's weights (Data2Vec), and the teacher a copy of them."""
    p = peer.p
    theirs = names.to_reference(ours, huggingface.student(p.encoder, p.backbone))
    missing, unexpected = peer.student.load_state_dict(theirs, strict=False)
    assert not unexpected, unexpected
    assert all("token_type" in name for name in missing), missing
    for name, tensor in peer.student.named_parameters():
        if "token_type" in name:
            tensor.data.zero_()
            tensor.requires_grad_(False)  # this project has no token types
    peer.head.load_state_dict(
        {k.removeprefix("head."): v for k, v in ours.items() if k.startswith("head.")}
    )
    peer.teacher.load_state_dict(peer.averaged().state_dict())
