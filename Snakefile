# The grid: data sets × recipes × kernels × couplings × seeds, down to one table.
# Cells, names and inputs: workflow/rules/common.smk.
from couplet.cli import warm_process
from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


# Constraints of wildcards come before all rules: later ones would undo them for outputs in a storage.
include: "workflow/rules/common.smk"
include: "workflow/rules/common_published.smk"
include: "workflow/rules/common_hooks.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/summaries.smk"
include: "workflow/rules/published.smk"


localrules:
    all,
    probes,
    table,
    figure,
    paper,
    published,


rule all:
    """results/table1.csv"""
    default_target: True
    input:
        "results/table1.csv",


# Jobs on this machine share the import of PyTorch; with an empty COUPLET_WARM, each imports it by itself.
onstart:
    check_start(log)
    warm_process.start()


# Finished results are recorded with DVC, also when other cells failed; then the result is shown.
onsuccess:
    shell("python workflow/scripts/record.py")
    link_page()
    tables = [path for path in shown if Path(path).with_suffix(".md").exists()]
    for path in tables:
        shell("couplet show {path:q}")
    print(*(path for path in shown if path not in tables), sep="\n", end="")


onerror:
    shell("python workflow/scripts/record.py")
    tell_failures(log)
