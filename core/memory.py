"""Memory: what a training step needs, and what is free."""

import copy
import sys
from pathlib import Path, PurePosixPath

import psutil
import torch

from core.errors import UserError
from core.processes import local_ranks

# On a CPU: memory use exceeds what autograd keeps (workspaces, fragmentation). The winning team
# reported 23.3 GB in fp16 and 27.6 GB in fp32 for Swin-L-384 at batch 16 on a V100; with this
# factor the estimates are 23.6 and 26.4. On a GPU a real step is measured instead.
OVERHEAD = 1.25
FRAGMENTS = 1.1  # of what was measured on a GPU


def fit(model, choice, args, device: str, resize, ranks: int = 1) -> None:
    """Set `choice.checkpointing` and `choice.split` so that a training step fits in memory.

    UserError with the flag to lower where nothing helps.
    """
    free = free_memory(device)
    fixed, photo = step_bytes(model, choice.precision, device, args, resize, ranks)
    choice.checkpointing = args.checkpointing == "yes" or (
        args.checkpointing == "auto"
        and fixed + photo * args.batch_size > free
        and set_checkpointing(model, True)
    )
    if choice.checkpointing:
        if not set_checkpointing(model, True):
            raise UserError(
                f"--checkpointing: timm's {args.model} cannot recompute activations; use "
                "--checkpointing no and a smaller --batch_size"
            )
        fixed, photo = step_bytes(model, choice.precision, device, args, resize, ranks)
    set_checkpointing(model, False)
    need = fixed + photo * args.batch_size
    while fixed + photo * (args.batch_size // choice.split) > free:
        choice.split *= 2
        if args.checkpointing != "auto" or args.batch_size % choice.split:
            raise UserError(
                f"--batch_size {args.batch_size} needs about {need / 1e9:.1f} GB, "
                f"{free / 1e9:.1f} GB are free; lower it (--accumulate keeps the effective batch) "
                "or use a smaller --resize"
            )


def set_checkpointing(model, enable: bool) -> bool:
    """Switch the backbone's activation checkpointing; False where timm has none for it."""
    try:
        model.backbone.set_grad_checkpointing(enable)
    except (AttributeError, AssertionError, NotImplementedError, RuntimeError, TypeError):
        return not enable  # timm's models refuse in all these ways
    return True


def step_bytes(model, precision: str, device: str, args, resize, ranks: int):
    """Bytes of a training step: what does not depend on the batch, and what a photo adds."""
    weights = 4 * sum(p.numel() for p in model.parameters())
    # Two moments of the optimizer; the average; the buckets in which DDP exchanges gradients.
    later = weights * (2 + bool(args.ema) + (ranks > 1))
    if device == "cuda":
        one, two = (measured_step(model, precision, resize, count) for count in (2, 4))
        if two == float("inf"):
            return two, two
        photo = FRAGMENTS * max(0, two - one) / 2
        return weights + max(0, FRAGMENTS * one - 2 * photo) + later, photo
    photo = OVERHEAD * kept_for_backward(model, resize, precision)
    return 2 * weights + later, photo


def measured_step(model, precision: str, resize, photos: int) -> float:
    """Most bytes that a real step of a copy of `model` takes on the GPU; infinite if too many.

    Its weights are not counted.
    """
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    try:
        trial = copy.deepcopy(model).to("cuda", memory_format=torch.channels_last).train()
        pixels = torch.zeros((photos, 3, *resize), dtype=torch.uint8, device="cuda")
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", dtype, enabled=precision != "fp32"):
            scores = trial(pixels)
        scores.float().sum().backward()
        return torch.cuda.max_memory_allocated() - before
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return float("inf")
    finally:
        trial = scores = None
        torch.cuda.empty_cache()


def kept_for_backward(model, resize, precision) -> float:
    """Bytes that autograd keeps for the backward pass of one photo: a forward pass on the CPU.

    Weights are not counted, nor the copies of them that autocast makes.
    """
    weights = {p.data_ptr() for p in model.parameters()}
    shapes = {p.shape for p in model.parameters()}
    shapes |= {shape[::-1] for shape in shapes if len(shape) == 2}
    kept = {}

    def pack(tensor):
        copied = precision != "fp32" and tensor.shape in shapes and tensor.dtype == torch.bfloat16
        if tensor.data_ptr() not in weights and not copied:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    # fp16 takes as many bytes as bf16, which CPUs compute faster.
    model.eval()
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32"),
    ):
        model(torch.zeros((2, 3, *resize), dtype=torch.uint8))
    return sum(kept.values()) / 2


def free_memory(device: str) -> int:
    """Bytes free for training on `device`, of main memory this rank's share."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return available_memory() // local_ranks()


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of main memory free for use: what the kernel reports, or less in a container.

    A file that was read stays in the container's page cache until its memory is needed: it counts
    as free. `root` is where /sys and /proc are.
    """
    free = psutil.virtual_memory().available
    for group, limit, used, cache in _memory_groups(root):
        try:
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            room = int((group / limit).read_text()) - int((group / used).read_text())
            free = min(free, room + int(stat.get(cache, 0)))
        except (OSError, ValueError):
            pass  # no such group, or no limit
    return free


# by the controllers in a line of /proc/self/cgroup: the hierarchy's folder, its files of the limit
# and of what is used, the count of page cache
HIERARCHIES = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def _memory_groups(root: Path):
    """The cgroups that limit this process, its own and those above it, with their files' names.

    Slurm and systemd limit a group below the top one, a container its top one.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    own = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    for controllers, (folder, *names) in HIERARCHIES.items():
        top, path = root / "sys/fs/cgroup" / folder, PurePosixPath(own.get(controllers, "/"))
        for group in (path, *path.parents):
            yield top / group.relative_to("/"), *names


def cache_fits(photos: int, resize, wish: str) -> bool:
    """Whether the decoded crops are kept in memory: yes, no, or auto.

    auto: if those of all ranks of this machine take at most a quarter of what is free.
    """
    size = local_ranks() * photos * resize[0] * resize[1] * 3
    return wish == "yes" or (wish == "auto" and size <= available_memory() / 4)


def peak_memory(device) -> float:
    """Highest memory use so far in GB: of the GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


# PyTorch's, cuBLAS's, cuDNN's and the kernel's words for it.
OUT_OF_MEMORY = (
    *("not enough memory", "can't allocate memory", "CUDA error: out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "_ALLOCATION_FAILED"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a batch did not fit, on the GPU or in main memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        text in str(error) for text in OUT_OF_MEMORY
    )
