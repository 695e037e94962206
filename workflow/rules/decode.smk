# Follows a fine-tuning whose decoding weights are searched for; uses CPUs only. Apart from its
# metrics, the fine-tuning's files that this rule reads are not declared: they are in work/, like
# checkpoints.


rule decode:
    input:
        needs("decode"),
    output:
        f"{RUNS}/decode/{{name}}/{{arm}}/seed{{seed}}/metrics.json",
    log:
        f"{WORK}/decode/{{name}}/{{arm}}/seed{{seed}}/launch.log",
    threads: threads_of("decode")
    params:
        defining=defining("decode"),
        about=about("decode"),
        experiment=EXPERIMENT,
    message:
        "{params.about}"
    shell:
        "exec d2v run decode/{wildcards.name}/{wildcards.arm}/seed{wildcards.seed}"
        " --params {params.experiment} --launch {LAUNCH} --tolerant"
