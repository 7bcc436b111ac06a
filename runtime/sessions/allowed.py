"""The operators that an artifact may hold, by format. Needs neither torch nor onnx.

They are the ones that networks compute with: arithmetic, shapes, layers. Each is a function of
what it takes, ends by itself, and touches nothing else. What reads or writes files, draws random
numbers, holds graphs of its own (loops, branches, functions) or is not known here is refused.
"""

import math
from collections.abc import Iterable

from capsnet.errors import ArtifactError

__all__ = [
    "ATEN",
    "LARGEST",
    "ONNX",
    "ONNX_DOMAINS",
    "SYMBOLIC",
    "TORCHSCRIPT",
    "check_operators",
    "check_sizes",
]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ARITHMETIC = (
    "abs add addcdiv addcmul ceil clamp clamp_max clamp_min cos div eq erf exp expm1 floor "
    "floor_divide fmod ge gt isfinite isinf isnan le log log10 log1p log2 logical_and logical_not "
    "logical_or lt maximum minimum mul ne neg pow reciprocal remainder round rsqrt rsub sigmoid "
    "sign sin sqrt square sub tan tanh true_divide trunc where masked_fill"
)
_PRODUCTS = "addmm baddbmm bmm dot einsum linear matmul mm mv"
_LAYERS = (
    "_convolution adaptive_avg_pool2d avg_pool2d batch_norm celu conv1d conv2d conv3d elu gelu glu "
    "group_norm hardsigmoid hardswish hardtanh instance_norm layer_norm leaky_relu linalg_norm "
    "linalg_vector_norm log_softmax _log_softmax logsigmoid max_pool2d mish norm normalize prelu "
    "relu relu6 selu silu softmax _softmax softplus softsign"
)
_REDUCTIONS = (
    "all amax amin any argmax argmin argsort cumprod cumsum logsumexp max mean median min prod "
    "sort std sum topk var"
)
_SHAPES = (
    "_unsafe_view alias cat chunk clone concat contiguous detach expand expand_as flatten flip "
    "gather index index_select lift_fresh_copy mT movedim moveaxis narrow pad permute "
    "pixel_shuffle pixel_unshuffle repeat reshape reshape_as roll select size slice split "
    "split_with_sizes squeeze stack swapaxes sym_size t tile to transpose type_as unbind unflatten "
    "unsqueeze view view_as _assert_tensor_metadata sym_numel numel constant_pad_nd"
)
_CREATING = _names(
    "arange full full_like new_full new_ones new_zeros ones ones_like scalar_tensor zeros "
    "zeros_like one_hot"
)
"""Those of torch that make a tensor of a size that they are told."""

ATEN = _CREATING.union(*map(_names, (_ARITHMETIC, _PRODUCTS, _LAYERS, _REDUCTIONS, _SHAPES)))
"""Those of torch, in TorchScript and torch.export alike, without their overloads."""

TORCHSCRIPT = frozenset(f"aten::{name}" for name in ATEN) | {
    *("aten::Bool", "aten::Float", "aten::FloatImplicit", "aten::Int", "aten::IntImplicit"),
    *("aten::ScalarImplicit", "aten::add_", "aten::div_", "aten::mul_", "aten::sub_"),
    *("prim::Constant", "prim::GetAttr", "prim::ListConstruct", "prim::ListUnpack"),
    *("prim::NumToTensor", "prim::TupleConstruct", "prim::TupleIndex", "prim::TupleUnpack"),
    *("prim::unchecked_cast", "aten::__getitem__"),
    # torch's own form of an older division; code of the archive that branches is not loaded at all
    *("prim::If", "aten::is_floating_point"),
}
"""What torch makes of the code of TorchScript."""

SYMBOLIC = frozenset(
    f"_operator.{name}"
    for name in _names("add sub mul neg floordiv truediv mod getitem eq ne ge gt le lt")
)
"""Those of Python that torch.export applies to sizes. No powers: they take long to compute."""

ONNX = _names(
    # arithmetic
    "Abs Add And BitShift Ceil Clip Cos Div Equal Erf Exp Floor Greater GreaterOrEqual IsInf "
    "IsNaN Less LessOrEqual Log Max Mean Min Mod Mul Neg Not Or Pow Reciprocal Round Sigmoid "
    "Sign Sin Sqrt Sub Sum Tan Tanh Where Xor "
    # products and layers
    "AveragePool BatchNormalization Celu Conv Einsum Elu Gelu Gemm GlobalAveragePool "
    "GlobalMaxPool GroupNormalization HardSigmoid HardSwish InstanceNormalization "
    "LayerNormalization LeakyRelu LogSoftmax LpNormalization MatMul MaxPool Mish PRelu Relu "
    "Selu Softmax Softplus Softsign ThresholdedRelu "
    # reductions
    "ArgMax ArgMin CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean "
    "ReduceMin ReduceProd ReduceSum ReduceSumSquare TopK "
    # shapes
    "Cast CastLike Concat Constant ConstantOfShape DepthToSpace Expand Flatten Gather "
    "GatherElements GatherND Identity Pad Range Reshape Shape Size Slice SpaceToDepth Split "
    "Squeeze Tile Transpose Unsqueeze "
    # precisions
    "ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv "
    "QLinearMatMul QuantizeLinear"
)
"""Those of ONNX."""

ONNX_DOMAINS = frozenset({"", "ai.onnx"})
"""The standard's own; quantisation, too, writes nothing else."""

LARGEST = 2**26
"""The most elements that the sizes in a graph may ask for: a quarter of a GiB of float32."""

_TO_THE_END = 2**63 - 1  # as the end of a slice


def check_operators(found: Iterable[str], allowed: frozenset[str]) -> None:
    """Raise ArtifactError where a graph holds an operator that is not allowed."""
    unknown = sorted(set(found) - allowed)
    if unknown:
        raise ArtifactError(
            f"the graph holds the operator {unknown[0]}, which the toolkit does not run: it allows "
            "standard arithmetic, shapes and layers, and nothing that reads or writes files, draws "
            "random numbers, branches or loops; export the network without it"
        )


def check_sizes(sizes: Iterable[int]) -> None:
    """Raise ArtifactError where numbers in a graph ask for more elements than any network needs."""
    asked = [abs(size) for size in sizes if size not in (_TO_THE_END, -_TO_THE_END - 1)]
    if math.prod(size for size in asked if size > 1) > LARGEST:
        raise ArtifactError(
            f"the graph holds the sizes {asked[:8]}, which ask for more than {LARGEST} elements; "
            "export a smaller network"
        )
