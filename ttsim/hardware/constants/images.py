"""Constants of the host's work on images, on their tokens and on masks: times of one element of a tensor."""

from __future__ import annotations

from collections.abc import Mapping

from ttsim.hardware.quantities import Constant, Unit, sourced


def _calibrated(name: str, value: float, unit: Unit, source: str, *, guess: float) -> Constant:
    origin = f"guessed {guess:g}, calibrated on five intervals of Llama-3.2-11B's vision demo (ttsim.proof.vision)"
    return Constant(name=name, value=value, unit=unit, kind="calibrated", source=f"{source}; {origin}", guess=guess)


HOST_IMAGE = _calibrated(
    "host_image", 0.117, "s", "resizing, cutting, unfolding and copying one image, with small tensors", guess=0.12
)
HOST_MASK = _calibrated(
    "host_mask", 2.92e-9, "s", "an element of the tower's mask: outer product, scale, stripes", guess=3.0e-9
)
HOST_CONVERT = _calibrated("host_convert", 1.27e-9, "s", "float32 to bf16, and a copy of one's own", guess=1.5e-9)
HOST_TILIZE = sourced("host_tilize", 1.10e-9, "s", "nothing", "tt-metal #21125: 71.8 ms for 8096 x 8096, one copy")
HOST_TILIZE_SLOW = sourced(
    "host_tilize_slow", 3.0, "1", "nothing", "tt-metal #20335 (2025-04-18): 10.5 M float32 from 78.7 to 26.2 ms"
)
HOST_TILIZE_THREADS: Mapping[int, Constant] = {
    2: sourced("host_tilize_2", 1.1, "1", "nothing", "two threads side by side against one (assumed)"),
    8: _calibrated("host_tilize_8", 2.40, "1", "eight threads side by side against one", guess=2.5),
}
HOST_UNTILIZE_ELEMENT = sourced(
    "host_untilize_element", 1.06e-9, "s", "nothing", "tt-metal #20335: untilize against tilize, 25.3 and 26.2 ms"
)
HOST_UNTILIZE_SLOW = sourced("host_untilize_slow", 2.6, "1", "nothing", "tt-metal #20335: from 65.7 to 25.3 ms")
HOST_UNPAD = _calibrated("host_unpad", 1.98e-9, "s", "cutting the padding off what was read", guess=2.0e-9)
HOST_JOIN = _calibrated("host_join", 0.50e-9, "s", "joining what was read from several devices", guess=0.5e-9)
HOST_POST = _calibrated("host_post", 2.46e-9, "s", "to float32, and padded again", guess=2.5e-9)
HOST_READ = sourced("host_read", 4.8e9, "B/s", "nothing", "device to host: tt-metal benchmark_rw_buffer_golden.json")
HOST_WRITE = sourced("host_write", 11e9, "B/s", "nothing", "host to device, one PCIe link of two chips: the same file")
HOST_WRITE_ALL = sourced("host_write_all", 30e9, "B/s", "nothing", "over the four PCIe links of a T3K: the same file")
HOST_MULTIPLY = sourced(
    "host_multiply",
    2e-12,
    "s",
    "nothing",
    "a multiply and add of torch's float32 matmul: 1 TFLOP/s (assumed)",
)
HOST_LOGITS = sourced(
    "host_logits",
    18.7e-9,
    "s",
    "nothing",
    "reading 32 rows of bf16 logits, converting one and its argmax, per vocabulary entry: 8.2 MB at host_read, and "
    "0.7 ms (assumed)",
)
HOST_STEP_INPUTS = sourced(
    "host_step_inputs", 0.9e-3, "s", "nothing", "five small tensors of a step with images, built and copied (assumed)"
)
