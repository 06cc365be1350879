"""What a study will cost, before it runs. No torch and no Ray here.

operations    multiply-accumulates of a training step, counted from the layers
observations  what was measured: seconds and memory, from calibrations and from finished studies
durations     measurements → seconds of a trial, with what is not known about them
workload      a spec, minus what is stored → trials with their steps and samples
survivors     how many epochs early stopping leaves of a search
estimate      workload × durations on the machines of a cluster → hours, money, energy, memory
advice        what meets a deadline or a budget: more machines, or less to run
record        the plan that a run leaves in its results folder
backtest      plans of finished studies against what they took
"""
