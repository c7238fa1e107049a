"""What may stand in a network's YAML: one schema for each part, distinguished by the one key that names its class."""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from stitching.config.bounds import Channels, Classes, Heads, Kernel, Layers, PathText, Pixels, Probability, Ratio
from stitching.config.errors import nearest, shortened
from stitching.config.schema import Schema, complaint

__all__ = [
    "AssemblyPart", "BasePart", "FormatField", "ModelFields", "NetPart", "ParallelPart", "PartField", "ReformatOptions",
    "SubnetPart",
]  # fmt: skip

LARGEST_SIZE = 10**8  # numbers of one image in a format: 0.4 GB
FORMAT_KINDS = ("img", "bhwc", "token", "bert", "vector")


def _check_format(value: Any) -> Any:
    kind, size = value, None
    if isinstance(value, list) and len(value) == 2:
        kind, size = value
    if kind not in FORMAT_KINDS:
        best = nearest(kind, FORMAT_KINDS)
        raise complaint(
            f"{shortened(value)} is no format" + (f"; did you mean {best!r}?" if best else ""),
            f"{', '.join(FORMAT_KINDS)}, alone or with a size such as [img, [256, 56, 56]] or [bert, [384, 196]]",
        )
    wanted = {"img": 3, "bhwc": 3, "token": 2, "bert": 2, "vector": 1}[kind]
    if size is not None and (
        not isinstance(size, list) or len(size) != wanted or not all(type(n) is int and n > 0 for n in size)
    ):
        order = {3: "[C, H, W]", 2: "[C, L]", 1: "[C]"}[wanted]
        raise complaint(f"the size of {kind!r} is {shortened(size)}", f"{order}, {wanted} whole numbers above zero")
    if size is not None and prod(size) > LARGEST_SIZE:
        raise complaint(f"the size of {kind!r} is {shortened(size)}", f"at most {LARGEST_SIZE:,} numbers in all")
    return value


FormatField = Annotated[str | list[Any], BeforeValidator(_check_format)]


class BasePart(Schema):
    """What every part may carry."""

    kind: str
    frozen: bool = False
    in_format: FormatField | None = None
    out_format: FormatField | None = None

    @model_serializer(mode="plain")
    def _as_yaml(self) -> dict[str, Any]:
        return {self.kind: {key: value for key, value in self if key != "kind" and value is not None}}


class ReformatOptions(Schema):
    """How formats are converted where there is a choice."""

    class_token: Literal["zeros", "ones", "avg"] = "zeros"


class ModelFields(Schema):
    """A trained model by name; further keys are passed to the model's constructor (`img_size`, `num_classes`, ...)."""

    model_config = {"extra": "allow", "strict": True}
    open_to: ClassVar[str | None] = "model arguments"

    backend: Literal["timm", "pytorch", "torchvision"] | None = None
    model_name: str
    pretrained: bool | None = None
    weights: str | None = None  # which of torchvision's published weights, by the name that torchvision gives them
    ckp_path: PathText | None = None

    @property
    def title(self) -> str:
        """`timm/resnet50`, `torchvision/swin_t`, `local/convnet`."""
        backend = {"pytorch": "torchvision"}.get(self.backend or "", self.backend)
        if backend:
            return f"{backend}/{self.model_name}"
        return self.model_name if "/" in self.model_name else f"local/{self.model_name}"

    @property
    def wants_pretrained(self) -> bool:
        """Whether published weights are asked for: by default for all models but our own."""
        if self.pretrained is not None:
            return self.pretrained
        return self.ckp_path is None and not self.title.startswith("local/")

    @property
    def model_args(self) -> dict[str, Any]:
        """The keys that are the model's own."""
        return dict(self.model_extra or {})


class NetPart(BasePart, ModelFields):
    kind: Literal["Net"]


class SubnetPart(BasePart, ModelFields):
    kind: Literal["Subnet"]
    block_input: str | None = None
    block_output: str | None = None
    random: bool = False  # a control's network: random weights in all its branches, BatchNorm statistics of images

    @model_validator(mode="after")
    def _random_without_weights(self) -> Self:
        if self.random and (self.pretrained is not False or self.ckp_path or self.weights):
            raise complaint(
                "a random network takes no weights", "`random: true` with `pretrained: false`", key="random"
            )
        return self


class SimpleAdapterPart(BasePart):
    kind: Literal["SimpleAdapter"]
    in_channels: Channels | None = None
    out_channels: Channels | None = None
    hid_channels: Channels | None = None
    num_conv: Annotated[Layers, Field(ge=1)] | None = None
    num_fc: Annotated[Layers, Field(ge=1)] | None = None
    kernel_size: Kernel = 3
    stride: Kernel = 1
    padding: Annotated[int, Field(ge=0, le=255)] | None = None
    leading_norm: bool = True
    trailing_norm: bool = True
    nonlinearity: bool = True
    init_identity: bool = False
    init: Literal["least_squares"] | None = None
    prefix_tokens: Annotated[int, Field(ge=0, le=1000)] | None = None  # None: with an init, as many as are lacking
    fc_format: Literal["token", "bert", "bhwc", "vector"] | None = None

    @model_validator(mode="after")
    def _one_kind_of_layer(self) -> Self:
        if (self.num_conv is None) == (self.num_fc is None):
            said = "neither" if self.num_conv is None else "both"
            raise complaint(f"{said} of num_conv and num_fc given", "exactly one of num_conv, num_fc")
        if self.prefix_tokens and not self.init:
            raise complaint("prefix_tokens are of an adapter that is fitted", "it together with `init: least_squares`")
        return self


class ResNetBlockPart(BasePart):
    kind: Literal["ResNetBasicBlock", "ResNetBottleneck"]
    in_channels: Channels | None = None
    out_channels: Channels | None = None
    stride: Kernel = 1
    norm_type: Literal["bn", "gn", "ln", "in"] = "bn"
    init_identity: bool = True


class VisionTransformerBlockPart(BasePart):
    kind: Literal["VisionTransformerBlock"]
    in_channels: Channels | None = None
    out_channels: Channels | None = None
    num_heads: Heads = 6
    embed_dim: Channels | None = None
    mlp_ratio: Ratio = 4.0
    dropout: Probability = 0.0
    attention_dropout: Probability = 0.0


class SwinTransformerBlockPart(BasePart):
    kind: Literal["SwinTransformerBlock"]
    num_heads: Heads = 6
    embed_dim: Channels | None = None
    do_shift: bool = False
    window_size: Kernel = 7
    mlp_ratio: Ratio = 4.0
    dropout: Probability = 0.0
    attention_dropout: Probability = 0.0
    stochastic_depth: Probability = 0.0


class ClassifierHeadPart(BasePart):
    kind: Literal["ClassifierHead"]
    num_classes: Classes | None = None
    pooled_size: Pixels | Annotated[list[Pixels], Field(min_length=2, max_length=2)] = 1


class AssemblyPart(BasePart):
    kind: Literal["Assembly"]
    parts: Annotated[list[PartField], Field(min_length=1)]
    head: PartField | None = None
    input_shape: Annotated[list[Pixels], Field(min_length=3, max_length=3)] | None = None
    num_classes: Classes | None = None
    reformat_options: ReformatOptions | None = None


class ParallelPart(BasePart):
    kind: Literal["ParallelPart"]
    parts: Annotated[list[PartField], Field(min_length=1)]
    agg: Literal["none", "avg", "concat", "concat_channels", "concat_sequence"] = "none"


class DeRyAdapterPart(BasePart):
    kind: Literal["DeRyAdapter"]
    input_channel: Channels | None = None
    output_channel: Channels | None = None
    num_fc: Layers = 0
    num_conv: Layers = 0
    stride: Kernel = 1
    mode: Literal["cnn2cnn", "cnn2vit", "vit2cnn", "vit2vit"] = "cnn2cnn"


class BaseBlockPart(BasePart):
    kind: Literal["BaseBlock"]
    in_channels: Channels | None = None
    out_channels: Channels | None = None
    stride: Kernel = 1
    kernel_size: Kernel = 3


class FunctionPart(BasePart):
    kind: Literal["Function"]
    name: str


PART_NAMES = (
    "Subnet", "Net", "SimpleAdapter", "ResNetBasicBlock", "ResNetBottleneck", "VisionTransformerBlock",
    "SwinTransformerBlock", "ClassifierHead", "Assembly", "ParallelPart", "DeRyAdapter", "BaseBlock", "Function",
)  # fmt: skip


def _with_kind(value: Any) -> Any:
    """`{Subnet: {...}}` as `{kind: Subnet, ...}`, which pydantic can tell apart."""
    if isinstance(value, BasePart):
        return value
    if not isinstance(value, dict) or len(value) != 1:
        found = f"a mapping with the keys {', '.join(map(str, value))}" if isinstance(value, dict) else shortened(value)
        raise complaint(
            f"a part is one class name with its arguments, found {found}", "e.g. `Subnet: {model_name: ...}`"
        )
    (kind, arguments), *_ = value.items()
    if kind not in PART_NAMES:
        best = nearest(kind, PART_NAMES)
        hint = f"; did you mean {best!r}?" if best else ""
        raise complaint(f"there is no part {shortened(kind)}{hint}", ", ".join(PART_NAMES), key=kind)
    if arguments is not None and not isinstance(arguments, dict):
        raise complaint(f"the arguments of a part are a mapping, found {shortened(arguments)}", key=kind)
    if "kind" in (arguments or {}):  # our own word for the class name; a user's would be lost
        raise complaint("unknown key 'kind'", key=kind)
    return {"kind": kind, **(arguments or {})}


PartField = Annotated[
    Annotated[
        SubnetPart | NetPart | SimpleAdapterPart | ResNetBlockPart | VisionTransformerBlockPart
        | SwinTransformerBlockPart | ClassifierHeadPart | AssemblyPart | ParallelPart | DeRyAdapterPart
        | BaseBlockPart | FunctionPart,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_with_kind),
]  # fmt: skip

for _part in (AssemblyPart, ParallelPart):
    _part.model_rebuild()
