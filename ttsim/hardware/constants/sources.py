"""Documents that constants of several kernels come from."""

from __future__ import annotations

LAYER_8B_N150 = "op profile of a Llama-3.1-8B decode layer on N150, tt-perf-report example_perf_report.png (2024-11)"
LAYER_1B_T3K = "op profile of a Llama-3.2-1B decode layer on T3K, tt-metal tech_reports/LLMs, op-to-op gap (2024-11)"
LAYERS = "op profiles of decode layers of 2024-11: 8B on N150 (tt-perf-report example), 1B on T3K (tech_reports/LLMs)"
PREFILL_70B = "tt-metal models/demos/llama3_subdevices/tests/perf_targets/prefill_128.json (Galaxy 70B, 2025-05)"
TARGETS = "tt-metal models/demos/llama3_70b_galaxy decoder_perf_targets_6u.json"
