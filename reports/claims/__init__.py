"""Judge the claims of a spec on the study's own results: supported, refuted or inconclusive.

A claim is supported where a test shows what it says, refuted where a test shows that what it says is wrong, and
inconclusive otherwise: a claim that the data cannot decide says why, and is never dropped. "Shows" is one convention
for all: a p-value below 0.05 after Holm's correction for all tested claims of the study.

What stands on a side. The cells that its condition matches; reference rows only where it names them. Of a search, and
of MDA's and HDA's weights λ and γ on an axis, the winner on the validation scenes stands for all ("manual optimum"),
unless the condition names the searched setting. A list in a condition means each of its values: the claim is
supported when it is supported for each (the largest p-value counts), and refuted when it is refuted for one of them
(the smallest, times their number), whatever is missing of the others. Cells are paired where all settings are equal
that neither side names, that both name alike, or that one of them does not have. A seed that is missing in one of them
is left out; with less than five seeds there is no p-value.

What counts. A metric that a trial was not trained for is no result: the error of MDA with λ = 0, its accuracy with
λ = 1 (`reports.results.Trial.trains`). Comparisons with it are inconclusive, and along a setting it is left out.
References have one run each: two of them leave nothing to test, but for parameters, MACs and numbers of trials, which
are exact.

`Comparison`: d = metric(than) − factor · metric(better) for each seed, and metric(better) − factor · metric(than)
where more is better. Several pairs (other system configurations) are averaged within each seed, and the seeds are
tested: configurations of one seed are no independent draws. A paired t-test (two-sided) compares the mean of d with the
margin: supported above, refuted below. A claim that holds on average is inconclusive where configurations contradict
it: where the one-sided t-test below the margin, on the seeds of one configuration, has a p-value below 0.05 after
Holm's correction for the configurations of the claim. Exact numbers need no test: they must be better by the margin in
all configurations, or refute the claim in all; without margin and factor, equal is not better. The time of all trials
of a side is a sum of measurements that vary: sums are compared with Welch's t-test, as if times were independent draws,
which on a busy machine they are not. The difference that is shown is that of the means, without the factor; the ratio
has the interval that belongs to the test (Fieller's).

The other three are about a setting, and judged within each configuration: each combination of all other settings,
methods among them. An average over configurations would hide changes of opposite sign. As with a list, the claim is
supported when it is supported in each configuration (the largest p-value), and refuted when it is refuted in one (the
smallest, times their number). A configuration with one value of the setting has no part in it.

`Steadiness`: the span of a side is the largest minus the smallest mean over the axis. Means that vary by chance have
a span too, so the claim is held against every pair of values: the two values at which ``than`` differs most must
differ by more than any two values of ``steadier`` do (the largest p-value over these; one-sided paired t-tests), and
since those two were picked among k · (k − 1) ordered pairs, p is multiplied by their number. Refuted by the same test
with the sides exchanged.

`Dependence`: the worst value against factor times the best, one-sided paired t-test, times the k · (k − 1) ordered
pairs they were picked from. Refuted when every pair of values is significantly within the factor (the largest
p-value). That nothing depends on a setting (factor 1) cannot be shown, so such a claim is never refuted.

`OptimumShift`: supported when no value is best everywhere: each one is significantly worse than another one at some
value of the axis (the largest p-value over the values, each the smallest of its comparisons times their number).
Refuted when one value is significantly better than every other at every value of the axis (the largest p-value, times
the number of values it could have been).

The last two take the values of an axis, or the candidates of a search; of candidates that share the value in
question, the best on the validation scenes stands for it. Candidates without a result are left out, which can only
hide a dependence; nothing is refuted without them.
"""

from __future__ import annotations

from reports.claims.judging import judge
from reports.claims.model import Judgement, Verdict
from reports.claims.table import claims_table

__all__ = ["Judgement", "Verdict", "claims_table", "judge"]
