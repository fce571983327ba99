"""In your own test suite: a change that makes the model slower, or no longer fit, fails here."""


def test_my_model_stays_fast(ttsim_simulate):
    report = ttsim_simulate(model="Llama3.2-1B", device="N300")
    assert report.speed >= 100
    assert report.ttft <= 0.025
    assert report.memory.free > 0
