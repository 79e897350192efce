"""Every Triton kernel through the compiler's front end, on a machine without a GPU.

The interpreter runs a kernel as Python and does not see what only the compiler refuses: a name that
changes its type in a loop, say. Here the operators' own cases are run with a launch replaced by
the translation of the kernel, for a Hopper GPU, into Triton's intermediate language. What the
operators return then is whatever was in memory. A module without such cases launches its kernels
in a function ``launches``.

Run as a program, for Triton must be imported with its interpreter off: the arguments are modules of
tests; a line is printed for each kernel that was refused, and at last the number of translations.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from typing import Any

import torch
from triton._C.libtriton import ir  # pyright: ignore[reportMissingImports]
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend
from triton.runtime.jit import JITFunction

from contracts.device_suite import DeviceContract
from statewise.ops import dispatch

TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bool: "i1",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.int32: "i32",
    torch.int64: "i64",
}
MODES = ((False, False, False), (True, True, True), (True, False, False), (False, True, False))
SHAPE = (2, 70, 33)
refused: dict[str, str] = {}
done: set[tuple] = set()


def _translate(self: Any, *args: Any, grid: Any = None, warmup: bool = False, **options: Any):
    """In place of a launch: the kernel's translation for these arguments."""
    names = self.arg_names
    given = dict(zip(names, args, strict=False)) | options
    signature, constants = {}, {}
    for place, parameter in enumerate(self.params):
        value = given.get(parameter.name)
        one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or one:
            signature[parameter.name] = "constexpr"
            constants[(place,)] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + TYPES[value.dtype]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32"
    key = (self.__name__, str(signature), str(constants))
    if key in done:
        return
    done.add(key)
    backend = make_backend(GPUTarget("cuda", 90, 32))
    parsed = backend.parse_options({k: v for k, v in options.items() if k not in names})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    target = (GPUTarget("cuda", 90, 32), parsed, backend.get_codegen_implementation(parsed))
    try:
        source = ASTSource(self, signature, constants)
        source.make_ir(*target, backend.get_module_map(), context)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        refused[self.__name__] = " ".join(str(cause).split())


def main(modules: list[str]) -> int:
    JITFunction.run = _translate
    for (_, backend), module in dispatch._modules.items():
        if backend == "gpu":
            importlib.import_module(module).refuses_gpu = lambda *_, **__: None
    for name in modules:
        module = importlib.import_module(name)
        if hasattr(module, "launches"):
            module.launches()
        for case in vars(module).values():
            if not inspect.isclass(case) or not issubclass(case, DeviceContract):
                continue
            if case.__module__ != name or not case.__name__.startswith("Test"):
                continue
            if (case.op, "gpu") not in dispatch._modules:
                continue
            suite: Any = case()
            for state, reset, reverse in MODES:
                example = suite.case(SHAPE, state=state, reset=reset, reverse=reverse)
                for dtype in (torch.float32, torch.bfloat16):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        suite.on("cpu", example, dtype)
    for kernel, why in refused.items():
        print(f"{kernel}: {why}")
    print(len(done))
    return bool(refused)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
