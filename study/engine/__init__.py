"""Trials on Ray: the only package that imports ray.tune or ray.train.

Tune starts trial processes, gives them one trial after the other and takes their reports. What is to run comes from a
`StudyQueue`; what is true is in the `Store`, and the driver alone writes it. Tune's own state, loggers and checkpoints
are switched off: nothing is read back from them.

    run             starts or joins Ray, and lets Tune run what the queue hands out
    searcher        Tune's view of the queue: what comes next, what is stopped early, what has to run again
    attempt         one trial in whatever process: its failure, its time limit and its early stop become tables
    trial_process   a process that runs one trial after the other
    train_workers   a trial on several Ray Train workers
    orphans         frees what a killed trial leaves behind in Ray

torch is imported by the trial processes alone: the driver has no use for it, and starts a second sooner. They in turn
import nothing of `run` and `searcher`, and so this package imports none of its modules.
"""
