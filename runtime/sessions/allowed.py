"""The operators that an artifact may hold, by format. Needs neither torch nor onnx.

They are the ones that networks compute with: arithmetic, shapes, layers. Each is a function of
what it takes, ends by itself, and touches nothing else. What reads or writes files, draws random
numbers, holds graphs of its own (loops, branches, functions) or is not known here is refused.
"""

import math
from collections.abc import Callable, Iterable

from capsnet.errors import ArtifactError

__all__ = [
    "ATEN",
    "LARGEST",
    "ONNX",
    "ONNX_DOMAINS",
    "SYMBOLIC",
    "TORCHSCRIPT",
    "check_elements",
    "check_operators",
    "check_sizes",
]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ARITHMETIC = (
    "abs acos add addcdiv addcmul asin atan atan2 bitwise_and bitwise_not bitwise_or ceil clamp "
    "clamp_max clamp_min cos cosh div eq erf erfc exp exp2 expm1 floor floor_divide fmod ge gt "
    "isfinite isinf isnan le lerp log log10 log1p log2 logaddexp logical_and logical_not "
    "logical_or logical_xor lt masked_fill maximum minimum mul ne neg pow reciprocal relu "
    "remainder round rsqrt rsub sigmoid sign sin sinh sqrt square sub tan tanh threshold "
    "true_divide trunc where xlogy"
)
_PRODUCTS = (
    "addbmm addmm addmv baddbmm bilinear bmm cdist cosine_similarity dot einsum inner linear "
    "matmul mm mv outer tensordot"
)
_LAYERS = (
    "_adaptive_avg_pool2d _convolution _log_softmax "
    "_native_batch_norm_legit_no_training _softmax adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_max_pool2d avg_pool1d avg_pool2d batch_norm celu col2im conv1d conv2d conv3d "
    "conv_transpose1d conv_transpose2d conv_transpose3d convolution elu embedding gelu glu "
    "group_norm hardshrink hardsigmoid hardswish hardtanh im2col instance_norm layer_norm "
    "leaky_relu linalg_norm linalg_vector_norm log_sigmoid log_sigmoid_forward log_softmax "
    "max_pool1d max_pool2d max_pool2d_with_indices mish "
    "native_group_norm native_layer_norm norm prelu relu6 rms_norm "
    "selu silu softmax softplus softshrink "
    "upsample_bilinear2d upsample_nearest1d upsample_nearest2d"
)
_REDUCTIONS = (
    "all amax amin aminmax any argmax argmin argsort cummax cummin cumprod cumsum logcumsumexp "
    "logsumexp max mean median min prod sort std std_mean sum topk var var_mean"
)
_SHAPES = (
    "_unsafe_view alias cat chunk clone concat contiguous detach expand expand_as flatten flip "
    "gather index index_put index_select lift_fresh_copy mT movedim "
    "moveaxis narrow pad permute pixel_shuffle pixel_unshuffle repeat repeat_interleave reshape "
    "reshape_as rot90 roll scatter scatter_add select select_scatter size slice slice_scatter "
    "split split_with_sizes squeeze stack swapaxes swapdims sym_size t take_along_dim tile to "
    "_to_copy copy fill transpose tril triu type_as unbind unflatten unfold unsqueeze view view_as "
    "_assert_tensor_metadata sym_numel numel constant_pad_nd reflection_pad1d reflection_pad2d "
    "replication_pad1d replication_pad2d"
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
    "Abs Acos Add And Asin Atan BitShift Ceil Clip Cos Cosh Div Equal Erf Exp Floor Greater "
    "GreaterOrEqual IsInf IsNaN Less LessOrEqual Log Max Mean Min Mod Mul Neg Not Or Pow "
    "Reciprocal Round Sigmoid Sign Sin Sinh Sqrt Sub Sum Tan Tanh Where Xor "
    # products and layers
    "AveragePool BatchNormalization Celu Col2Im Conv ConvTranspose Einsum Elu Gelu Gemm "
    "GlobalAveragePool GlobalMaxPool GroupNormalization HardSigmoid HardSwish "
    "Hardmax InstanceNormalization LayerNormalization LeakyRelu LogSoftmax LpNormalization "
    "MatMul MaxPool Mish PRelu RMSNormalization Relu Resize Selu Shrink "
    "Softmax Softplus Softsign ThresholdedRelu "
    # reductions
    "ArgMax ArgMin CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean "
    "ReduceMin ReduceProd ReduceSum ReduceSumSquare TopK "
    # shapes
    "Cast CastLike Concat Constant ConstantOfShape DepthToSpace Expand Flatten Gather "
    "GatherElements GatherND Identity OneHot Pad Range Reshape "
    "ScatterElements ScatterND Shape Size Slice SpaceToDepth Split Squeeze Tile Transpose Trilu "
    "Unsqueeze "
    # precisions
    "ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv "
    "QLinearMatMul QuantizeLinear"
)
"""Those of ONNX."""

ONNX_DOMAINS = frozenset({"", "ai.onnx"})
"""The standard's own; quantisation, too, writes nothing else."""

LARGEST = 2**26
"""The most elements that the sizes in a graph may ask for: a quarter of a GiB of float32."""

_MOST_ELEMENTS = 2**27  # of all tensors that are computed for one image: half a GiB of float32
_MANY = 64  # images

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


def check_elements(count: Callable[[int], int]) -> None:
    """Raise ArtifactError where a graph asks for more memory than a network needs.

    Args:
        count: how many elements all tensors have together that the graph computes for a batch of
            so many images, found out without computing them.
    """
    one = count(1)
    if one > _MOST_ELEMENTS:
        raise ArtifactError(
            f"the graph computes {one} elements for one image, more than {_MOST_ELEMENTS}; export "
            "a smaller network"
        )
    if count(_MANY) > 4 * _MANY * one:  # a batch may need copies where one image needs none
        raise ArtifactError(
            "the graph asks for memory that grows faster than the batch; export the network "
            "without that"
        )
