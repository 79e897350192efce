"""Arrays inside kernels from addresses, for calls that take more arrays than a signature holds."""

from __future__ import annotations

from numba import carray  # pyright: ignore[reportPrivateImportUsage]
from numba.core import types
from numba.extending import intrinsic

from statewise.ops.jit import kernel


@intrinsic
def _pointer(typingctx, address, like):
    """A pointer to elements of the type of the array ``like``."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), codegen  # pyright: ignore


@kernel
def array_at(address, count, like):
    """The flat array of ``count`` numbers of the type of ``like``; nothing checks the address."""
    return carray(_pointer(address, like), (count,))  # pyright: ignore[reportCallIssue]
