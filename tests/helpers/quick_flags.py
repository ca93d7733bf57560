"""XLA flags that compile in a third of the time, to slower programs: for processes that compile more than they run."""

FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
