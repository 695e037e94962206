rule tables:
    input:
        metrics=[run.metrics_path for run in runs.reported_runs(experiment)],
        probes=[run.metrics_path for run in runs.probe_runs(experiment)],
        reported="params/reported.csv",
        references="params/references.bib",
    output:
        [
            report(
                f"{TABLES}/{table}.{suffix}",
                caption=f"../report/{table}.rst",
                category="Tables",
                subcategory=table,
                labels={"format": suffix},
            )
            for table in runs.table_names(experiment)
            for suffix in ("csv", "md", "tex", "html")
        ],
        f"{TABLES}/tables.tex",
        f"{TABLES}/references.bib",
        # Only this rule writes the marker, so a preview by `d2v tables` never counts as the result.
        touch(f"{TABLES}/{folders.COMPLETE}"),
        page=report(
            f"{RESULTS}/index.html",
            caption="../report/page.rst",
            category="Page",
        ),
        # One file, not the folder: Snakemake empties a folder that is an output before it starts.
        summary=f"{RESULTS}/summary/files.json",
    log:
        f"{WORK}/tables.log",
    params:
        experiment=EXPERIMENT,
        n=len(runs.finetune_runs(experiment)),
        layout=[
            f"{name}: {task.table}, {task.row}, {task.column}, {task.more}, {task.note}"
            for name, task in experiment.finetune.items()
        ],
    message:
        "Build the tables of {params.experiment} from {params.n} runs"
    shell:
        "d2v tables --params {params.experiment} > {log} 2>&1"
