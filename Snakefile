# data -> pretrain -> (grid -> choice) -> finetune (-> decode) -> tables
#
#   snakemake -n                     show what would run
#   snakemake --cores 2              run everything that is missing or out of date
#   snakemake --config experiment=params/mini-full.yaml ...
#   snakemake --config set=pretrain.vision.optimiser.lr=1e-3 ...   see docs/overrides.md

from snakemake.utils import min_version

min_version("9.20")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/decode.smk"
include: "workflow/rules/tables.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        rules.tables.output,
        # Every run, so that a missing or outdated one is found even if all its products exist.
        [run.metrics_path for run in runs.all_runs(experiment)],
        # Likewise what runs share.
        [
            folders.chosen_path(experiment, name)
            for name, task in experiment.finetune.items()
            if task.grid
        ],
        [run.units for run in runs.pretrain_runs(experiment) if run.units],
