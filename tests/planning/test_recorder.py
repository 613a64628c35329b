"""What the recorder counts, by hand."""

import gc

import torch
import torch.nn.functional as F
from torch import nn

from triptych.planning.kernels import DeviceKernels
from triptych.planning.recorder import StepRecorder

META = torch.device("meta")


def record(module: nn.Module, vocabulary: int = -1) -> StepRecorder:
    return StepRecorder([*module.parameters(), *module.buffers()], vocabulary)


def test_bytes_are_held_as_long_as_a_tensor_refers_to_them() -> None:
    recorder = record(nn.Module())
    with recorder:
        first = torch.empty(100, device=META)
        view = first[:10]
        del first
        second = view + 1
        third = second.double()
        del view, second
        gc.collect()
        recorder.enter("head")
        del third
    peaks = recorder.cost.peaks
    assert peaks["vision"].activations == 4 * 100 + 4 * 10 + 8 * 10
    assert peaks["head"].activations == 8 * 10


def test_gradients_and_logits_are_told_apart() -> None:
    layer = nn.Linear(16, 50, device=META)
    recorder = record(layer, vocabulary=50)
    for parameter in layer.parameters():
        parameter.register_post_accumulate_grad_hook(recorder.accumulated)
    with recorder:
        given = torch.empty(8, 16, device=META)
        logits = layer(given)
        assert recorder.cost.peaks["vision"].logits == 4 * 8 * 50
        recorder.begin_backward()
        torch.autograd.backward(logits.sum())
        recorder.enter("tail")
    assert recorder.cost.peaks["tail"].gradients == 4 * (16 * 50 + 50)
    assert recorder.cost.flops == 2 * (2 * 8 * 16 * 50)


def test_what_is_computed_again_is_not_counted_again() -> None:
    layer = nn.Linear(16, 16, device=META)
    counts = []
    for again in (False, True):
        recorder = record(layer)
        with recorder:
            given = torch.empty(8, 16, device=META, requires_grad=True)
            if again:
                out = torch.utils.checkpoint.checkpoint(layer, given, use_reentrant=False)
            else:
                out = layer(given)
            recorder.begin_backward()
            torch.autograd.backward(out.square().sum())
        counts.append(recorder.cost.flops)
    assert counts[0] == counts[1] == 3 * 2 * 8 * 16 * 16


def test_attention_keeps_no_square_of_scores() -> None:
    recorder = record(nn.Module())
    shape = (1, 2, 1000, 8)
    with DeviceKernels(recorder, half=False, gpu=False), recorder:
        inputs = [torch.empty(shape, device=META, requires_grad=True) for _ in range(3)]
        out = F.scaled_dot_product_attention(inputs[0], inputs[1], inputs[2], is_causal=True)
        torch.autograd.backward(out, torch.empty(shape, device=META))
    assert recorder.cost.peaks["vision"].activations < 12 * 4 * 2 * 1000 * 8
    assert recorder.cost.flops == (2 + 5) * 2 * 2 * 1000 * 1000 * 8


def test_autocast_copies_weights_once_and_lets_them_go() -> None:
    layer = nn.Linear(32, 32, bias=False, device=META)
    recorder = record(layer)
    kernels = DeviceKernels(recorder, half=True, gpu=True)
    with kernels, recorder:
        out = layer(layer(torch.empty(4, 32, device=META)))
        assert out.dtype == torch.bfloat16
        assert recorder.cost.peaks["vision"].copies == 2 * 32 * 32
        kernels.end_forward()
        del out
        gc.collect()
        recorder.enter("tail")
    assert recorder.cost.peaks["tail"].copies == 0


def test_masks_on_the_cpu_choose_rows() -> None:
    recorder = record(nn.Module())
    mask = torch.tensor([True, False, True, True])
    with recorder:
        states = torch.empty(4, 5, device=META, requires_grad=True)
        chosen = states[mask]
        assert chosen.shape == (3, 5)
        torch.autograd.backward(chosen.sum())
    assert states.grad is not None
    assert states.grad.shape == (4, 5)
