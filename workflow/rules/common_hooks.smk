# What is checked before jobs run, and said after they failed.
# Seconds for which Slurm must know an ended job: its plugin asks every three minutes, if nothing happens.
OLD_ENOUGH = 240


def said_in(log):
    """What Snakemake has said so far: the content of its log, a path or a list of them."""
    paths = [log] if isinstance(log, str) else log
    return "".join(Path(path).read_text() for path in paths)


def check_start(log):
    """Stop where jobs would wait for ever, or would be given fewer threads than their files say."""
    # Snakemake's log says which plugin submits jobs.
    if "\nSLURM run ID: " in said_in(log):
        check_slurm()
    else:
        for table in asked:
            wanted = layout(table).params.threads
            if wanted > workflow.cores:
                stop(
                    f"--cores {workflow.cores}: {origin(table)[0]}: threads = {wanted}, which decides numbers; "
                    f"give --cores {wanted}, or edit the file"
                )
        # While it limits jobs per second, Snakemake looks at all jobs once a second for each job that ended:
        # after 800, half a core's time. Here --cores is limit enough.
        workflow.scheduler.job_rate_limiter = None


def check_slurm():
    """Stop where Slurm does not answer, or forgets jobs before they are asked for."""
    for command in (
        "sbatch --version",
        "squeue --noheader --name couplet",
        "scontrol show config",
    ):
        try:
            done = subprocess.run(command.split(), capture_output=True, text=True)
        except OSError:
            name = command.split()[0]
            stop(f"Slurm: no command {name}; run Snakemake where jobs are submitted")
        if done.returncode:
            said = " ".join(done.stderr.split())
            stop(f"Slurm: `{command}` fails, no job was submitted: {said}")
    known = int(re.search(r"^MinJobAge *= *(\d+)", done.stdout, re.MULTILINE)[1])
    if known < OLD_ENOUGH:
        stop(
            f"Slurm: MinJobAge = {known}: ended jobs are forgotten before Snakemake asks for them; must be at "
            f"least {OLD_ENOUGH} seconds, see docs/cluster.md"
        )
    # The plugin asks for this each time; without an answer, from a controller that is away, it would go on with
    # sacct, which may never have one.
    sys.modules["snakemake_executor_plugin_slurm"].get_min_job_age = lambda: known


ERROR = re.compile(
    r"^Error in rule\b[^\n]*\n    message: (?P<message>.*?)\n    jobid: (?P<job>\d+)\n.*?"
    r"^    log: (?P<logs>.*?) \(check log file|^Trying to restart job (?P<again>\d+)\.",
    re.MULTILINE | re.DOTALL,
)

REASONS = {
    r"SLURM sbatch failed\. The error message was '(.*?)'\.\n": "was not submitted: {}",
    r"Job submission failed with exception: (.*)": "was not submitted: {}",
    r"SLURM status is: '(\w+)'": "failed, Slurm says {}",
}


def reason(message):
    """Why a job failed, from Snakemake's message."""
    for pattern, text in REASONS.items():
        if found := re.search(pattern, message, re.DOTALL):
            return text.format(" ".join(found[1].split()))
    return "failed"


def last_lines(path, count=5):
    """The last lines of a log, of the last attempt; of Slurm's log, the first that Slurm itself says."""
    lines = (
        path.read_text(errors="replace").rstrip().splitlines() if path.exists() else []
    )
    begins = [number for number, line in enumerate(lines) if line.startswith("== ")]
    if begins:
        return lines[begins[-1] + 1 :][-count:]
    return [line for line in lines if re.match("slurmstepd|srun: error", line)][:count]


def tell_failures(log):
    """Print every failed job with the reason and its logs."""
    text, failed = said_in(log), {}
    names = dict(re.findall(r"^Job (\d+): (.*)$", text, re.MULTILINE))
    for found in ERROR.finditer(text):
        if found["again"]:
            failed.pop(found["again"], None)
        else:
            failed[found["job"]] = found
    for job, found in failed.items():
        print(f"couplet: {names[job]} {reason(found['message'])}", file=sys.stderr)
        for path in map(Path, found["logs"].split(", ")):
            if path.exists() and path.stat().st_size:
                lines = [
                    os.path.relpath(path),
                    *(f"  {line}" for line in last_lines(path)),
                ]
                print(*(f"  {line}" for line in lines), sep="\n", file=sys.stderr)
