# data -> pretrain -> (grid -> choice) -> finetune (-> decode) -> tables
#
#   snakemake -n                     the plan, in words
#   snakemake --cores 2              everything that is missing or out of date
#   snakemake --config experiment=params/mini-full.yaml ...

from snakemake.utils import min_version

min_version("9.20")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/decode.smk"
include: "workflow/rules/tables.smk"


# Light in the workflow's process: training is submitted as a job by `d2v run`. The other rules are
# carried out by Snakemake's executor, which a profile may choose.
localrules:
    all,
    pretrain,
    grid_point,
    finetune,
    decode,


rule all:
    default_target: True
    input:
        rules.tables.output,
        # every run, so that a missing or outdated one is found whatever has been made from it
        [runs.metrics_path(experiment, run) for run in runs.all_runs(experiment)],
