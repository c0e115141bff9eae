"""Memory: what a training step needs, and what is free."""

import os

import torch

from core.errors import UserError

# Activations take more than autograd keeps (workspaces, fragments): Swin-L-384 at batch 16 on a V100 took 23.3 GB under fp16 and
# 27.6 GB in fp32 by the winning team's account; from what autograd keeps, this factor gives 23.6 and 26.4.
OVERHEAD = 1.25


def fit(model, choice, args, free: int) -> None:
    """Set `choice.checkpointing` and `choice.split` so that a training step takes at most `free` bytes.

    Needs are estimated from what autograd keeps for one photo. Raises UserError with the flag to lower where nothing helps.
    """
    parameters = sum(p.numel() for p in model.parameters())
    fixed = 16 * parameters + (
        4 * parameters if args.ema else 0
    )  # fp32 weights, gradients, two moments, average
    photo = kept_for_backward(model, args.resize, choice.precision)
    need = fixed + OVERHEAD * photo * args.batch_size
    choice.checkpointing = args.checkpointing == "yes" or (
        args.checkpointing == "auto" and need > free
    )
    if choice.checkpointing:
        if not hasattr(model.backbone, "set_grad_checkpointing"):
            raise UserError(f"--checkpointing: {args.model} cannot do it")
        model.backbone.set_grad_checkpointing(True)
        photo = (
            kept_for_backward(model, args.resize, choice.precision) + photo / 10
        )  # and a block of activations computed again
        model.backbone.set_grad_checkpointing(False)
    while fixed + OVERHEAD * photo * (args.batch_size // choice.split) > free:
        choice.split *= 2
        if args.checkpointing != "auto" or args.batch_size % choice.split:
            raise UserError(
                f"--batch_size {args.batch_size} needs about {(fixed + OVERHEAD * photo * args.batch_size) / 1e9:.1f} GB, "
                f"{free / 1e9:.1f} GB are free; lower it (--accumulate keeps the effective batch) or use a smaller --resize"
            )


def kept_for_backward(model, resize, precision) -> float:
    """Bytes that autograd keeps for the backward pass of one photo, weights not counted: one forward pass of two photos on the CPU."""
    weights = {p.data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    model.eval()
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype, enabled=precision != "fp32"),
    ):
        model(torch.zeros((2, 3, *resize), dtype=torch.uint8))
    return sum(kept.values()) / 2


def available_memory() -> int:
    """Bytes of main memory free for use: what the kernel reports, or less where a container's limit says so."""
    free = (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if hasattr(os, "sysconf")
        else 8 << 30
    )
    try:
        with open("/proc/meminfo") as lines:
            free = next(
                int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
            )
        with (
            open("/sys/fs/cgroup/memory.max") as limit,
            open("/sys/fs/cgroup/memory.current") as used,
        ):
            free = min(free, int(limit.read()) - int(used.read()))
    except (OSError, ValueError, StopIteration):
        pass  # not Linux, or no limit
    return free


def cache_fits(photos: int, resize, wish: str) -> bool:
    """Whether the decoded crops are kept in memory: yes, no, or auto: if they take at most a quarter of what is free."""
    return wish == "yes" or (
        wish == "auto" and photos * resize[0] * resize[1] * 3 <= available_memory() / 4
    )


def peak_memory(device) -> float:
    """Highest memory use so far in GB: of the GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if os.uname().sysname == "Darwin" else 1024)
        / 1e9
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a batch did not fit, on the GPU or in main memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        text in str(error) for text in ("not enough memory", "can't allocate memory")
    )
