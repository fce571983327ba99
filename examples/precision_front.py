"""Speed against Top-1: what a format costs, and which settings nothing beats."""

import ttsim

question = ttsim.Question(model="1b", device="N300")
settings = ("", "ff2=bfp4,li_ff2=lofi", "wqkv=bfp4,li_qkv_decode=lofi", "ff1_3=bfp8,li_ff1_3=hifi2fp16")

for override in settings:
    estimate = ttsim.estimate(question.change({"override": override}), advice=False)
    speed, accuracy = estimate.report.speed, estimate.accuracy
    print(
        f"{override or 'performance':36} {speed:6.1f} t/s/u   Top-1 {accuracy.top1:.1f} ± {accuracy.top1_sigma:.1f} %"
    )
