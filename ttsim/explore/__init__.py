"""Questions beyond one report: estimates, sweeps, goals, comparisons, fronts, timelines and profiles."""
