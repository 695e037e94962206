# DVC decides which data is out of date; the workflow only requests missing sets. This rule
# therefore has no inputs: if it had any, running it once would rerun everything that depends on it.


rule data:
    output:
        f"{experiment.prepared}/{{dataset}}/meta.json",
    log:
        f"{WORK}/data/{{dataset}}.log",
    priority: 30
    resources:
        dvc=1,
    params:
        stages=experiment.stages,
    message:
        "Prepare the data set {wildcards.dataset} (dvc repro of its stage)"
    shell:
        "d2v data {wildcards.dataset} --stages {params.stages} 2>&1 | tee {log}"
