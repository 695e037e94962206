# data -> pretrain -> (grid -> choice) -> finetune -> tables
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
include: "workflow/rules/tables.smk"


# Every rule is light in the workflow's process: training is submitted as a job by `d2v run`.
localrules:
    all,
    data,
    pretrain,
    grid_point,
    choose,
    finetune,
    tables,


rule all:
    default_target: True
    input:
        rules.tables.output,
