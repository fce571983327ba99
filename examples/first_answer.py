"""One question, one report."""

import ttsim

report = ttsim.simulate(model="Llama3.1-8B", device="N150", precision="performance", batch_size=1, prompt_length=128)
accuracy = ttsim.estimate_accuracy("Llama3.1-8B", "performance")

print(f"{report.speed:.1f} tokens/s/user, first token after {1e3 * report.ttft:.0f} ms")
print(f"{report.memory.free / 1e9:.1f} GB of a chip's DRAM are free")
print(accuracy)
print(report)  # with the largest parts of a decode step and of prefill
