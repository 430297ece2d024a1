"""Flags that are wrong by themselves, or contradict each other."""

from workshop import TEXT, Bad, Workshop

LONG, MANY_NINES = "x" * 300, "9" * 5000
SITE = "blocks.1.hook_resid_pre"
WITHOUT_TEXT = (
    "--n-tokens 512 --batch-tokens 64 --buffer-tokens 128 --eval-tokens 64 --d-sae 64 "
    "--context-size 16 --wandb off --out run"
)
SMALL = f"--dataset {TEXT} {WITHOUT_TEXT}"

TRAIN = {
    "an unknown flag": (
        "--architectur topk",
        "unknown --architectur: did you mean --architecture",
    ),
    "a value for a switch": ("--tied maybe", "unknown maybe; --help"),
    "a flag without its value": ("--k", "argument --k: expected one argument.*--help"),
    "a word for a number": ("--k many", "--k must be a whole number.*got 'many'.*--help"),
    "more features than memory": ("--d-sae 1000000000000", "d_sae 1000000000000.*GB.*give fewer"),
    "features beyond 64 bits": (f"--d-sae {2**63}", f"--d-sae must be .*64 bits.*got '{2**63}'"),
    "more active features than all": ("--d-sae 8 --k 9", r"k must be in 1..d_sae \(8\), got 9"),
    "no learning rate": ("--lr 0", "lr must be positive, got 0"),
    "a learning rate that is no number": ("--lr nan", "--lr must be a finite number, got 'nan'"),
    "a weight of another architecture": (
        "--l1-coeff 1",
        "unknown settings for.*topk: l1_coeff; docs",
    ),
    "screening without a k": (
        "--architecture relu --products screened",
        "products 'screened' needs.*relu has none: use float32 or bfloat16",
    ),
    "products of another type": ("--products int8", "--products must be one of.*got 'int8'"),
    "a seed beyond 64 bits": ("--seed 99999999999999999999", "--seed must be .*64 bits.*got '99"),
    "tokens to train on below zero": ("--n-tokens -5", "n_tokens must be at least 1, got -5"),
    "a batch beyond memory": (
        "--batch-tokens 1000000000000",
        "memory.*1,000,000,000,000 rows: give",
    ),
    "a buffer beyond memory": (
        "--buffer-tokens 1000000000000",
        "memory.*1,000,000,000,000 rows: g",
    ),
    "epochs without a cache": ("--epochs 2", "epochs are passes over a cache: name one"),
    "a context that the model cannot see": ("--context-size 129", "129 is more than tiny.*at most"),
    "a second site above the folder": (
        f"--hook-name {SITE} --hook-name ../../evil",
        "unknown hook name '../../evil': use blocks",
    ),
    "a site twice": (
        f"--hook-name {SITE} --hook-name {SITE}",
        f"twice: name each of.*{SITE}.*once",
    ),
    "a layer in other digits": (
        "--hook-name blocks.\uff11.hook_resid_pre",
        r"unknown hook name 'blocks.\uff11.hook_resid_pre': use",
    ),
    "a GPU that is not there": ("--device cuda:99", "'cuda:99' cannot be used here: use auto"),
    "another way to log": ("--wandb sometimes", "--wandb must be one of off.*got 'sometimes'"),
    "a model of 5000 letters": (f"--model {'m' * 5000}", "cannot load the model 'mmm.*give 'tiny'"),
    "a model that is markup": ("--model [/b]", r"cannot load the model '\[/b\]'.*give 'tiny'"),
    "a text without a name": ("--dataset ''", "dataset is empty: name something"),
    "a text at an address": (
        "--dataset https://evil.example/x.json",
        "no text file at https.*give",
    ),
    "a column that is not there": ("--text-column body", "no text column 'body': it has text"),
    "a cache behind an unknown protocol": ("--cache foo://x", "cannot use foo://x.*foo; name"),
    "a start that is not there": (
        "--start-from nowhere",
        "no dictionary at nowhere.*name the --out",
    ),
    "a config file that is a flag": ("--config --tied", "argument --config: expected one"),
}

HARVEST_SMALL = f"--dataset {TEXT} --n-tokens 100 --held-out-tokens 50 --context-size 16 --out run"
HARVEST = {
    "held-out rows below zero": ("--held-out-tokens -1", "held_out_tokens must be at least 0, got"),
    "an unknown codec": ("--codec int4", "--codec must be one of .*bfloat16.*got 'int4'"),
    "a site twice": (
        f"--hook-name {SITE} --hook-name {SITE}",
        f"twice: name each of.*{SITE}.*once",
    ),
    "a context of one token": ("--context-size 1", "context_size must be at least 2, got 1"),
    "a flag of another script": ("--seed 1", "unknown --seed; --help"),
    "nothing to verify": ("--verify", "run is not an activation cache.*make one"),
    "an unknown protocol": ("--out foo://bar", "cannot use foo://bar.*foo; name a folder"),
}

BENCH = {
    "an unknown row": ("--only nothing", "unknown row 'nothing': --only takes one of"),
    "no threads": ("--threads 0", "threads must be at least 1.*got 0"),
    "more active features than all": ("--d-sae 8 --k 9", r"k must be in 1..d_sae \(8\), got 9"),
    "a layer below zero": ("--layer -1", "layer must not be negative, got -1"),
    "an unknown device": ("--device tpu", "device must be auto, cpu or cuda, got 'tpu'"),
    "a page that is a folder": ("--page .", "cannot write to .: it is a folder; name a file"),
    "a page in no folder": ("--page no/where.md", "no/where.md: no is no folder.*name a file"),
    "a model that is not there": (
        "--model nowhere/x --only harvest-forward",
        "cannot load the model 'nowhere/x'.*give 'tiny'",
    ),
}

TINY_LM = {
    "less than a step": ("--n-tokens 10", "n_tokens 10 are fewer than one step"),
    "a context of one token": ("--context-size 1", "context_size must be at least 2, got 1"),
    "fewer words than bytes": ("--d-vocab 100", "d_vocab must be in 257..65536, got 100"),
    "a learning rate that is no number": ("--muon-lr nan", "--muon-lr must be a finite.*got 'nan'"),
    "a seed below zero": ("--seed -1", "seed must be at least 0, got -1"),
}

EVALUATE = {
    "no dictionary": ("", "RUN_OR_DICTIONARY.*required"),
    "two dictionaries": ("d e", "unknown e; --help"),
    "a path of 5000 letters": ("x" * 5000, "cannot read the dictionary at xxx.*too long.*name"),
    "a device for a path": ("/dev/null", "no dictionary at /dev/null: .*; name the --out"),
    "no tokens": ("d --eval-tokens 0", "no usable eval_tokens .0.: give it as a flag"),
    "a site of another width": (
        "d --hook-name blocks.1.mlp.hook_post",
        "takes activations of width 192.*mlp.hook_post of tiny has width 768: choose",
    ),
    "a model without a name": ("d --model ''", "no usable model_name .''.: give it"),
    "an --out below a file": ("d --out d/cfg.json/x", "d/cfg.json is no folder.*name a file"),
    "an --out of 300 letters": (f"d --out {'x' * 300}", "xxx.*too long; name a file in"),
}


def valid(shop: Workshop) -> None:
    shop.dictionary()


BAD_FLAGS = {
    **{
        f"train, {name}": Bad(
            "train", f"{WITHOUT_TEXT if '--dataset' in flags else SMALL} {flags}", says
        )
        for name, (flags, says) in TRAIN.items()
    },
    **{
        f"harvest, {name}": Bad("harvest", f"{HARVEST_SMALL} {flags}", says)
        for name, (flags, says) in HARVEST.items()
    },
    **{
        f"bench, {name}": Bad("bench", f"--only ceiling-copy --repeats 1 {flags}", says)
        for name, (flags, says) in BENCH.items()
    },
    **{
        f"train_tiny_lm, {name}": Bad("train_tiny_lm", f"--out run {flags}", says)
        for name, (flags, says) in TINY_LM.items()
    },
    **{
        f"evaluate, {name}": Bad("evaluate", flags, says, valid)
        for name, (flags, says) in EVALUATE.items()
    },
}
