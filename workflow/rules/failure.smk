# What is said last when jobs have failed: their logs' ends, and what did not run.
LAST_LINES = 10


def name_of_job(job):
    """The folder or table that a job works on: its first wildcard."""
    return next(iter(job.wildcards), "")


def say_what_failed(failed, unfinished):
    """Prints the end of every failed job's log, then the jobs that did not run, by what they work on.

    Whoever comes back after hours reads the last screen, not the place where a job stopped.
    """
    jobs = [job for one in failed for job in (one.jobs if one.is_group() else [one])]
    for job in sorted(jobs, key=str):
        print(
            f"\ncouplet: {job.rule.name} {name_of_job(job)} failed: {job.log}",
            file=sys.stderr,
        )
        for log in filter(Path.exists, map(Path, job.log)):
            lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
            print("".join(f"    {line}\n" for line in lines), end="", file=sys.stderr)
    waiting = {}
    for job in unfinished:
        if job not in jobs and job.output:
            waiting.setdefault(name_of_job(job), []).append(job.rule.name)
    if waiting:
        print("\ncouplet: not run:", file=sys.stderr)
    for name, rules in sorted(waiting.items()):
        print(f"    {name}: {', '.join(rules)}", file=sys.stderr)
    print(
        "\nThe same command, after the cause is gone, runs only what is listed here.\n",
        file=sys.stderr,
    )
