"""The machine behind fastadam.torch: a step of tensors as one of arrays, or in one call of C."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, repeat
from operator import setitem
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch._C import DisableTorchFunction
from torch._C._autograd import _profiler_enabled
from torch.autograd.graph import increment_version
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fastadam import _backend, _hyper, _rules
from fastadam._arrays import Arrays, Counts, Written
from fastadam._checks import check_separate, check_writable
from fastadam._codecs import computed_in
from fastadam._others import for_others
from fastadam._slots import LEAST_IN_INT8, form, rest_of, slot, state_like
from fastadam._state import (
    read_number,
    read_step,
    rest_name,
)
from fastadam.torch._dtensor import (
    is_dtensor,
    largest_part,
    local_grad,
    local_of,
    origin_of,
    spread_like,
)
from fastadam.torch._loading import decoded_entry, params_of, prepare_state, unwrapped
from fastadam.torch._memory import (
    HALF,
    STORED,
    Gradient,
    Memory,
    as_bytes,
    check_form,
    check_kind,
    gradient_of,
    is_aliased,
    is_count,
    memory_of,
    read_grad,
    rest_array,
    rest_form,
    stored_like,
    tensor_of,
    torch_dtype,
)
from fastadam.torch._options import (
    STORAGE,
    check_can_be_stored,
    check_group,
    check_options,
    name_of,
    read_group,
    refuse,
)

try:
    from fastadam.torch._tensors import Tensors
except ImportError:  # it was not compiled, or _native was not
    Tensors = None  # type: ignore[assignment, misc]

#: By which the compiled backend looks at tensors; without it they all become arrays.
EXCHANGE = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
#: Has autograd refuse graphs that are older than a step. The first is what the second calls, and
#: all of it is C's: no signal handler can come between a step and this.
INCREMENT_VERSIONS = getattr(torch._C, "_increment_version", increment_version)


class _Kept:
    """What an optimizer keeps from step to step.

    It is one object, so that wrappers that copy or forward the optimizer's attributes, as
    Lightning's do, share it: what is done through them is seen.
    """

    __slots__ = ("lock", "state", "tensors")

    def __init__(self) -> None:
        self.lock = _backend.module().Lock()
        self.state: Any = None
        #: Those of the last step, to be stepped again if they stayed as they were.
        self.tensors: Any = None


class _Member(NamedTuple):
    """A parameter that has a gradient, or had one."""

    param: torch.Tensor
    group: int
    grad: Gradient | None
    tensors: list[Memory | None]  # the parameter, the rule's states, and what it lacks
    counts: list[Memory]  # what else its state has
    step: int
    numbers: tuple[float, ...]  # the rule's
    added: dict[str, torch.Tensor]  # what its state lacks, or has in another form


class Optimizer(torch.optim.Optimizer):
    """What the classes share: the step."""

    _rule: ClassVar[_rules.Rule]
    #: The options that torch's class lacks, as they are where a pickle does not have them.
    _lacking: ClassVar[dict[str, Any]] = STORAGE
    _fixed: ClassVar[dict[str, Any]] = {}  # options that a loaded state dict does not change

    def __init__(self, params: Any, **options: Any) -> None:
        refuse(options)
        self._kept = _Kept()
        lacking = {key: options.pop(key) for key in self._lacking}
        super().__init__(params, **options)
        self.defaults.update(lacking)
        check_options(self.defaults, self._rule)
        for number, group in enumerate(self.param_groups):
            for key, value in lacking.items():
                group.setdefault(key, value)
            check_group(group, number, self._rule)
        # torch's fused classes ask a GradScaler to leave its work to them.
        self._step_supports_amp_scaling = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.setdefault("_kept", _Kept())
        self.state = unwrapped(state["state"])
        super().__setstate__({key: value for key, value in state.items() if key != "state"})
        for key, value in self._lacking.items():
            self.defaults.setdefault(key, value)
            for group in self.param_groups:
                group.setdefault(key, self.defaults[key])

    def _get_state(self) -> Any:
        state = self._kept.state  # held before anybody asks whether somebody holds it
        # To look at all of the state takes longer than to step 1,000 elements, so it is done
        # only after somebody had it.
        tensors = self._kept.tensors
        if tensors is not None:
            tensors.is_shared = True
        return state

    def _set_state(self, value: Any) -> None:
        kept = self._kept
        with kept.lock.hold():
            kept.state, kept.tensors = value, None

    state: Any = property(_get_state, _set_state, doc="Of each parameter, as torch's.")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch's does.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            As in the constructor; there are the same groups as before.
        """
        if isinstance(param_group, dict):  # or torch says so
            refuse(param_group)
        super().add_param_group(param_group)
        number = len(self.param_groups) - 1
        try:  # only now it is a list of tensors, whatever it was
            group = self.param_groups[number]
            for place, param in enumerate(group["params"]):
                if param.requires_grad:
                    check_kind(name_of(number, place), param)
            if "seed" in self.defaults:  # or torch's constructor calls, and ours will check it
                check_group(group, number, self._rule)
        except BaseException:
            del self.param_groups[number]
            raise

    def state_dict(self, *, decoded: bool = False) -> dict[str, Any]:
        """State, step counts and options, in torch.optim's layout; tensors are not copied.

        Parameters
        ----------
        decoded : bool, optional
            For others than fastadam: moments that are stored in fewer bits are float32 tensors
            (complex64 for complex parameters) of the parameter's shape, which are new, and
            what a parameter in half precision lacks of a float32 is left out. What torch lacks
            has besides the names under which other packages look for it (see
            `fastadam.torch`), and nothing of parameters that were not stepped yet.

        Returns
        -------
        dict
            ``{"state": {index: {"step", "exp_avg", ...}}, "param_groups": [...]}``. Each state
            has the tensors of torch's class under torch's names. Moments are float32, or
            with ``state_dtype="bfloat16"`` bfloat16 (for complex parameters with a last axis
            of 2), or with ``"int8"`` uint8 of shape (blocks, 65) if the parameter has at
            least 4,096 numbers. A bfloat16 parameter has a ``"param_remainder"``: for each number
            an int16, as two bytes (uint8, with a last axis of 2), which can be sent to other
            processes; ``x.view(torch.int16).squeeze(-1)`` has the numbers. A float16 one has a
            ``"master_param"`` (float32) of its shape. Counts are float64 tensors.

        Examples
        --------
        >>> import torch
        >>> import fastadam.torch
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = fastadam.torch.AdamW([w], state_dtype="bfloat16")
        >>> w.grad = torch.ones(2)
        >>> optimizer.step()
        >>> optimizer.state_dict()["state"][0]["exp_avg"].dtype
        torch.bfloat16
        >>> optimizer.state_dict(decoded=True)["state"][0]["exp_avg"].dtype
        torch.float32
        """
        if not decoded:
            self._check_can_be_carried()
        state_dict: dict[str, Any] = super().state_dict()
        if decoded:
            params = params_of(state_dict["param_groups"], self.param_groups)
            state_dict["state"] = {
                key: decoded_entry(self._rule, f"state[{key!r}]", entry, params[key][0])
                if key in params
                else entry
                for key, entry in state_dict["state"].items()
            }
            state_dict = for_others(self._rule, state_dict)
        return state_dict

    def _check_can_be_carried(self) -> None:
        """Check that torch can carry all state elsewhere as it carries the parameters."""
        for number, group in enumerate(self.param_groups):
            for place, param in enumerate(group["params"]):
                # On all processes or on none, though a small part has no state in 8 bits.
                if (
                    group["state_dtype"] == "int8"
                    and is_dtensor(param)
                    and largest_part(param) >= LEAST_IN_INT8
                    and not self._kept.state.get(param, {}).keys().isdisjoint(self._rule.states)
                ):
                    raise ValueError(
                        f"the state of {name_of(number, place)} is in 8 bits, of which no DTensor "
                        "can be made; state_dict(decoded=True) has it as float32"
                    )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over state, step counts and options, as torch's does.

        Parameters
        ----------
        state_dict : dict
            What `state_dict` gave, of an optimizer of the same class, of torch.optim's class of
            that name or, where torch has none, of another package's (see `fastadam.torch`); or
            of fastadam's for arrays with tensors in place of its arrays.

        Raises
        ------
        TypeError, ValueError, KeyError
            It does not fit; the message says what does not. The optimizer is unchanged.

        Notes
        -----
        State is stored as this optimizer's `state_dtype` says, which stays as it is. Moments
        that are stored in another way are decoded, and rounded once if these are stored in
        fewer bits. Where a parameter is in half precision and the state does not have what it
        lacks of a float32, it is taken to lack nothing; where it lacks nothing,
        ``"param_remainder"`` and ``"master_param"`` are left out. All else is cast as torch does.
        """
        # To be the last of these hooks, after those of the user.
        handle = self.register_load_state_dict_pre_hook(prepare_state)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss.

        Returns
        -------
        object
            What `closure` returned, else None.

        Raises
        ------
        RuntimeError, TypeError, ValueError, KeyError
            A tensor or an option is of a kind that fastadam cannot step; the message names
            it. No parameter, state or step count was changed.
        """
        given = () if closure is None else (closure,)
        if torch.compiler.is_compiling():
            return _uncompiled(self, *given)
        if type(self).step is Optimizer.step and (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or _profiler_enabled()
        ):
            return self._observed_step(*given)
        return self._step(*given)

    # torch wraps every `step` that lacks this mark in what calls hooks and tells the profiler,
    # 15 us even where there are none. (It has wrapped that of a subclass.)
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        kept, threads = self._kept, torch.get_num_threads()
        with kept.lock.hold():
            if kept.tensors is None or not kept.tensors.step(self.param_groups, threads):
                kept.tensors = None
                self._step_anew(kept, threads)
        return loss

    _observed_step = torch.optim.Optimizer.profile_hook_step(_step)

    def _step_anew(self, kept: _Kept, most_threads: int, may_watch: bool = True) -> None:
        """A step for which all tensors are looked at."""
        # To read options and gradients may run other people's code, which may do anything to
        # parameters and state, so these are looked at only afterwards.
        param_groups = list(self.param_groups)
        groups = [read_group(group, self._rule.options) for group in param_groups]
        found = [
            (name_of(number, place), param, number)
            for number, group in enumerate(param_groups)
            for place, param in enumerate(group["params"])
        ]
        grads = [read_grad(name, param) for name, param, _ in found]
        members: list[_Member] = []
        for (name, param, number), grad in zip(found, grads, strict=True):
            entry = kept.state.get(param, {})
            if grad is not None:
                members.append(self._member(name, param, number, groups[number], grad, entry))
            elif entry:  # it may have a gradient at the next step
                with suppress(RuntimeError, TypeError, ValueError, KeyError):
                    members.append(self._member(name, param, number, groups[number], grad, entry))
        if all(member.grad is None for member in members):
            return
        batch = self._batch(kept, members, groups)
        replaced = [
            {key: value for key, value in kept.state.get(m.param, {}).items() if key in m.added}
            for m in members
        ]
        try:
            for member in members:
                if member.added:
                    kept.state.setdefault(member.param, {}).update(member.added)
            params = [param for _, param, _ in found]
            kept.tensors = self._watched(kept, batch, members, params) if may_watch else None
            if kept.tensors is None:
                _step_arrays(self._rule, batch, members, groups, most_threads)
            elif not kept.tensors.step(self.param_groups, most_threads):
                kept.tensors = None
        finally:
            if not batch.finished:
                for member, values in zip(members, replaced, strict=True):
                    _take_back(kept.state, member, values)
        if not batch.finished:  # other people's code has changed something meanwhile
            self._step_anew(kept, most_threads, may_watch=False)

    def _member(
        self,
        name: str,
        param: Any,
        group: int,
        options: dict[str, Any],
        grad: Gradient | None,
        entry: Any,
    ) -> _Member:
        rule, added = self._rule, {}
        first = memory_of(name, param)
        tensors: list[Memory | None] = [first]
        check_can_be_stored(name, param, options["state_dtype"])
        like, moments = stored_like(first.array, options["state_dtype"])
        dtypes = rule.stored_as(moments, computed_in(like))
        for number, (key, dtype) in enumerate(zip(rule.states, dtypes, strict=True)):
            asked = rule.asked.get(key)
            if asked is not None and not options[asked]:
                tensors.append(None)
                continue
            tensor = entry.get(key)
            if tensor is None:
                if entry and asked is None:
                    raise KeyError(f"the state of {name} lacks {key!r}")
                made = tensor_of(state_like(like, number, 0.0, dtype))
                tensor = added[key] = spread_like(made, param)
            memory = memory_of(f"{key!r} of {name}", tensor, STORED)
            reason = f"as {name} is {param.dtype} and state_dtype={options['state_dtype']!r}"
            check_form(memory, torch_dtype(dtype), form(like, dtype)[0], reason)
            tensors.append(memory)
        tensors.append(None)
        if param.dtype in HALF:
            key = rest_name(like)
            label, kept = f"{key!r} of {name}", entry.get(key)
            if kept is None:
                bare = slot(rule, [like], group)._replace(user=first.array)
                kept = spread_like(tensor_of(rest_of(bare)), param)
            tensor = as_bytes(label, kept, param)
            if tensor is not entry.get(key):
                added[key] = tensor
            tensors[-1] = memory = memory_of(label, tensor, STORED)
            check_form(memory, *rest_form(param, like.shape), f"as {name} is {param.dtype}")
        # torch's SGD keeps no step count: it only knows whether there is a buffer.
        values: dict[str, Any] = {
            "step": int(any(entry.get(key) is not None for key in rule.states))
        }
        counts, numbers = [], {number.name: number for number in rule.numbers}
        names = rule.number_names
        if rule.saves_step or options["state_dtype"] is not None:  # rounding depends on the count
            names = ("step", *names)
        for key in names:
            label = f"{key!r} of {name}"
            if entry and key not in entry and (key != "step" or rule.saves_step):
                raise KeyError(f"the state of {name} lacks {key!r}")
            if key in numbers:
                values[key] = read_number(label, entry.get(key, numbers[key].first), numbers[key])
            else:
                values[key] = read_step(label, entry.get(key, values[key]))
            tensor = entry.get(key)
            if not is_count(tensor):
                tensor = added[key] = torch.tensor(values[key], dtype=torch.float64, device="cpu")
            counts.append(memory_of(label, tensor))
        found = tuple(values[name] for name in numbers)
        return _Member(param, group, grad, tensors, counts, values["step"], found, added)

    def _batch(self, kept: _Kept, members: list[_Member], groups: list[Any]) -> Any:
        written = written_by(members)
        rows = [
            [None if memory is None else memory.array for memory in member.tensors[:-1]]
            for member in members
        ]
        rests = [None if m.tensors[-1] is None else rest_array(m.tensors[-1]) for m in members]
        arrays = Arrays(
            rule=self._rule,
            spec=list(range(len(members))),
            names=("", "the gradient of "),
            slots=[
                slot(self._rule, row, member.group, param_of(member).name, rest=rest)._replace(
                    state_dtype=groups[member.group]["state_dtype"],
                    origin=origin_of(member.param, groups[member.group]["state_dtype"]),
                )
                for row, rest, member in zip(rows, rests, members, strict=True)
            ],
            written=written,
            n_groups=len(groups),
            in_groups=False,
        )
        counts = Counts([m.step for m in members], [m.numbers for m in members])
        return _backend.module().Batch(arrays, counts, kept.lock, _hyper.check_clip(None, False))

    def _watched(
        self, kept: _Kept, batch: Any, members: list[_Member], params: list[torch.Tensor]
    ) -> Any:
        """The tensors of a batch for the compiled backend, if it can step them by itself."""
        if (
            Tensors is None
            or EXCHANGE is None
            or _backend.native() is None
            or not all(
                type(param) in (torch.Tensor, torch.nn.Parameter) or is_dtensor(param)
                for param in params
            )
        ):
            return None
        rows = {id(member.param): (member.tensors, member.counts) for member in members}
        try:
            return Tensors(
                batch,
                EXCHANGE,
                params,
                [local_of("", param) if is_dtensor(param) else None for param in params],
                [rows.get(id(param)) for param in params],
                kept.state,
                [param_of(member).tensor.detach() for member in members],
                [(i, m.param) for i, m in enumerate(members) if is_dtensor(m.param)],
                INCREMENT_VERSIONS,
                read_group,
                gradient_of,
                local_grad,
                is_aliased,
            )
        except NotImplementedError:
            return None


#: Let a compiled training loop call this one as it is.
_uncompiled: Any = torch.compiler.disable(Optimizer.step)


def _step_arrays(
    rule: _rules.Rule, batch: Any, members: list[_Member], groups: list[Any], most_threads: int
) -> None:
    """A step in which all tensors become arrays."""
    grads = [None if member.grad is None else member.grad.grad for member in members]
    n_numbers = len(rule.numbers)
    counts = [[memory.array for memory in member.counts] for member in members]
    steps: list[Any] = [own[0] if len(own) > n_numbers else np.empty(()) for own in counts]
    numbers: list[Any] = [array for own in counts for array in own[len(own) - n_numbers :]]
    stepped = versioned([member for member in members if member.grad is not None])
    # What is left to do after a step is done in one call of C, when these are read: no signal
    # handler can come between parameters that moved and counts that did not.
    rest = chain(
        map(setitem, steps, repeat(()), _later(batch, "steps")),
        map(setitem, numbers, repeat(()), chain.from_iterable(_later(batch, "numbers"))),
        map(INCREMENT_VERSIONS, [stepped]),
    )
    check_unmoved(members)
    try:
        batch.step_held(grads, groups, 1.0, most_threads)
    finally:
        if batch.finished:
            deque(rest, maxlen=0)


def written_by(members: list[_Member]) -> list[Written]:
    """The arrays that steps write, parameters first, or an error if one cannot be written."""
    params: list[Written] = []
    others: list[Written] = []
    for member in members:
        for memory in member.tensors:
            if memory is not None:
                check_writable(memory.name, memory.array)
                entry = Written(memory.name, memory.array, memory.array)
                (params if memory is member.tensors[0] else others).append(entry)
    written = params + others
    check_separate([(label, array) for label, array, _ in written])
    return written


def _later(batch: Any, name: str) -> Iterator[Any]:
    """The items of a batch's attribute, as they will be when the first is asked for."""
    return chain.from_iterable(map(getattr, [batch], [name]))


def _take_back(state: Any, member: _Member, replaced: dict[str, Any]) -> None:
    """Undo what was added to the state for a step that was not done, and nothing else."""
    entry = state.get(member.param, {})
    for key, tensor in member.added.items():
        if entry.get(key) is tensor:
            if key in replaced:
                entry[key] = replaced[key]
            else:
                del entry[key]
    if not entry:
        state.pop(member.param, None)


def param_of(member: _Member) -> Memory:
    return cast(Memory, member.tensors[0])


def versioned(members: list[_Member]) -> list[torch.Tensor]:
    """The tensors whose versions autograd compares."""
    return [
        *(param_of(member).tensor for member in members),
        *(member.param for member in members if is_dtensor(member.param)),
    ]


def check_unmoved(members: list[_Member]) -> None:
    """Check that all memory is where it was when it was looked at; share_memory_ moves it."""
    with DisableTorchFunction():  # so this runs nobody else's code
        for member in members:
            written = [memory for memory in (*member.tensors, *member.counts) if memory is not None]
            named = [(memory.name, memory.array) for memory in written]
            if member.grad is not None:
                named.append((f"the gradient of {written[0].name}", member.grad.array))
            for name, array in named:
                base = array.base
                if (
                    isinstance(base, torch.Tensor)
                    and array.size
                    and base.data_ptr() != array.ctypes.data
                ):
                    raise RuntimeError(f"{name} was moved in memory while a step looked at it")


class Base(torch.optim.Optimizer):
    """What stands for torch.optim's class of a name where there is none."""

    def __init__(self, params: Any, **defaults: Any) -> None:
        super().__init__(params, defaults)
