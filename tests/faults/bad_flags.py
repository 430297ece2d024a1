"""Flags that are wrong by themselves, or contradict each other."""

from workshop import TEXT, Bad, Workshop

LONG, MANY_NINES = "x" * 300, "9" * 5000
SITE = "blocks.1.hook_resid_pre"
SMALL = (
    f"--dataset {TEXT} --n-tokens 512 --batch-tokens 64 --buffer-tokens 128 --eval-tokens 64 "
    "--d-sae 64 --context-size 16 --wandb off --out run"
)

TRAIN = {
    "an unknown flag": ("--architectur topk", "Unrecognized options: --architectur.*--help"),
    "a stray word": ("junk", "Unrecognized options: junk.*--help"),
    "a value for a switch": ("--tied maybe", "Unrecognized options: maybe.*--help"),
    "a flag without its value": ("--k", "Missing value for argument '--k'.*--help"),
    "a word for a number": ("--k many", "--k takes .*INT, got 'many': Active features"),
    "half a feature": ("--k 1.5", "--k takes .*INT, got '1.5'"),
    "an exponent for a whole number": ("--d-sae 1e3", "--d-sae takes INT, got '1e3': Number"),
    "more features than memory": ("--d-sae 1000000000000", "d_sae 1000000000000.*GB.*give fewer"),
    "features beyond 64 bits": (f"--d-sae {2**63}", f"d_sae must fit into 64 bits, got {2**63}"),
    "fewer than no features": ("--d-sae -8", "d_sae must be at least 1, got -8"),
    "more active features than all": ("--d-sae 8 --k 9", r"k must be in 1..d_sae \(8\), got 9"),
    "no learning rate": ("--lr 0", "lr must be positive, got 0"),
    "a learning rate that is no number": ("--lr nan", "lr must be a finite number, got nan"),
    "an infinite learning rate": ("--lr inf", "lr must be a finite number, got inf"),
    "an L1 weight that is no number": (
        "--architecture relu --l1-coeff nan",
        "l1_coeff must be a finite number, got nan",
    ),
    "an infinite L0 weight": (
        "--architecture jumprelu --l0-coeff inf",
        "l0_coeff must be a finite number, got inf",
    ),
    "a weight of another architecture": ("--l1-coeff 1", "l1_coeff is no setting.*topk: leave it"),
    "a k for gates": ("--architecture gated --k 4", "k is no setting.*gated: leave it out"),
    "screening without a k": (
        "--architecture relu --products screened",
        "products 'screened' needs.*relu has none: use float32 or bfloat16",
    ),
    "products of another type": ("--products int8", "'int8' for argument '--products'.*float32"),
    "a model in another type": ("--dtype float8", "'float8' for argument '--dtype'.*float32"),
    "a seed beyond 64 bits": ("--seed 99999999999999999999", "seed must fit into 64 bits, got 99"),
    "a seed of the order beyond 64 bits": (
        "--data-seed 99999999999999999999",
        "data_seed must fit into 64 bits, got 99",
    ),
    "tokens to train on below zero": ("--n-tokens -5", "n_tokens must be at least 1, got -5"),
    "tokens beyond 64 bits": (
        f"--n-tokens {2**63}",
        f"n_tokens must fit into 64 bits, got {2**63}",
    ),
    "no batch": ("--batch-tokens 0", "batch_tokens must be at least 1, got 0"),
    "a batch beyond memory": (
        "--batch-tokens 1000000000000",
        "memory.*1,000,000,000,000 rows: give",
    ),
    "no buffer": ("--buffer-tokens 0", "buffer_tokens must be at least 1, got 0"),
    "a buffer beyond memory": (
        "--buffer-tokens 1000000000000",
        "memory.*1,000,000,000,000 rows: g",
    ),
    "nothing to evaluate on": ("--eval-tokens -5", "eval_tokens must be at least 1, got -5"),
    "no step between rows": ("--log-every 0", "log_every must be at least 1, got 0"),
    "no epochs": ("--epochs 0", "epochs must be at least 1, got 0"),
    "epochs without a cache": ("--epochs 2", "epochs are passes over a cache: name one"),
    "a context that the model cannot see": ("--context-size 129", "129 is more than tiny.*at most"),
    "a site without a name": ("--hook-name ''", "unknown hook name '': use blocks.<layer>"),
    "a site above the folder": ("--hook-name ../../evil", "unknown hook name '../../evil': use"),
    "a second site above the folder": (
        f"--hook-name {SITE} --hook-name ../../evil",
        "unknown hook name '../../evil': use blocks",
    ),
    "a site at the root": ("--hook-name /tmp/evil", "unknown hook name '/tmp/evil': use blocks"),
    "a site twice": (
        f"--hook-name {SITE} --hook-name {SITE}",
        f"hook_name.*twice.*{SITE}.*each once",
    ),
    "a layer of 5000 digits": (
        f"--hook-name blocks.{MANY_NINES}.hook_resid_pre",
        "unknown hook na",
    ),
    "a layer in other digits": (
        "--hook-name blocks.\uff11.hook_resid_pre",
        r"unknown hook name 'blocks.\uff11.hook_resid_pre': use",
    ),
    "a layer with a zero before": ("--hook-name blocks.01.hook_resid_pre", "unknown hook.*01.*use"),
    "a GPU that is not there": ("--device cuda:99", "'cuda:99' cannot be used here: use auto"),
    "a device without memory": ("--device meta", "device 'meta' cannot be used here: use auto"),
    "no device": ("--device ''", "device is empty: name something, or leave it out"),
    "another way to log": ("--wandb sometimes", "'sometimes' for argument '--wandb'.*off"),
    "a model without a name": ("--model ''", "model is empty: name something, or leave it out"),
    "a model of 5000 letters": (f"--model {'m' * 5000}", "cannot load the model 'mmm.*give 'tiny'"),
    "a model that is markup": ("--model [/b]", r"cannot load the model '\[/b\]'.*give 'tiny'"),
    "a model at an address": ("--model https://evil.example/x", "cannot load.*evil.example.*give"),
    "a model above the folder": ("--model ../..", "cannot load the model '../..'.*give 'tiny'"),
    "a text without a name": ("--dataset ''", "dataset is empty: name something"),
    "a text that is markup": ("--dataset [/b].txt", r"no text file at \[/b\].txt: give"),
    "a text of 5000 letters": (f"--dataset {'d' * 5000}", "cannot read text from ddd.*give a hub"),
    "a text at an address": (
        "--dataset https://evil.example/x.json",
        "no text file at https.*give",
    ),
    "a column that is not there": ("--text-column body", "no text column 'body': it has text"),
    "a column without a name": ("--text-column ''", "text_column is empty: name something"),
    "a cache that is not there": (
        "--cache nowhere",
        "nowhere is not an activation cache.*make one",
    ),
    "a cache without a name": ("--cache ''", "cache is empty: name something, or leave it out"),
    "a cache behind an unknown protocol": ("--cache foo://x", "cannot use foo://x.*foo; give"),
    "a start that is not there": (
        "--start-from nowhere",
        "no dictionary at nowhere.*name the --out",
    ),
    "no config file": ("--config nowhere.yaml", "cannot read.*nowhere.yaml: No such file.*give a"),
    "a config file that is a flag": ("--config --tied", "cannot read the config file --tied.*give"),
}

HARVEST_SMALL = f"--dataset {TEXT} --n-tokens 100 --held-out-tokens 50 --context-size 16 --out run"
HARVEST = {
    "an exponent for a whole number": ("--n-tokens 1e6", "--n-tokens takes INT, got '1e6': Activ"),
    "rows below zero": ("--n-tokens -1", "n_tokens must be at least 1, got -1"),
    "held-out rows below zero": ("--held-out-tokens -1", "held_out_tokens must be at least 0, got"),
    "no rows in a shard": ("--shard-tokens 0", "shard_tokens must be at least 1, got 0"),
    "a shard beyond memory": (
        "--shard-tokens 99999999999",
        "shard_tokens.*at most 16,777,216, got",
    ),
    "a pass beyond memory": ("--forward-tokens 99999999999", "forward_tokens.*at most 16.*got 99"),
    "an unknown codec": ("--codec int4", "'int4' for argument '--codec'.*bfloat16"),
    "a site above the folder": ("--hook-name ../x", "unknown hook name '../x': use blocks"),
    "a site twice": (
        f"--hook-name {SITE} --hook-name {SITE}",
        f"twice: name each of.*{SITE}.*once",
    ),
    "a context of one token": ("--context-size 1", "context_size must be at least 2, got 1"),
    "a flag of another script": ("--seed 1", "Unrecognized options: --seed, 1.*--help"),
    "a text that is not there": ("--dataset no.txt", "no text file at no.txt: give"),
    "nothing to verify": ("--verify", "run is not an activation cache.*make one"),
    "nothing to repair": ("--repair", "run is not an activation cache.*make one"),
    "no folder": ("--out ''", "'' is no folder: name one"),
    "an unknown protocol": ("--out foo://bar", "cannot use foo://bar.*foo; give a folder"),
}

BENCH = {
    "an unknown row": ("--only nothing", "unknown row 'nothing': --only takes one of"),
    "no threads": ("--threads 0", "threads must be at least 1.*got 0"),
    "no repeats": ("--repeats 0", "repeats must be at least 1.*got 0"),
    "no features": ("--d-sae -1", "d_sae must be at least 1.*got -1"),
    "more active features than all": ("--d-sae 8 --k 9", r"k must be in 1..d_sae \(8\), got 9"),
    "no rows": ("--batch-tokens 0", "batch_tokens must be at least 1.*got 0"),
    "a layer below zero": ("--layer -1", "layer must not be negative, got -1"),
    "an unknown device": ("--device tpu", "device must be auto, cpu or cuda, got 'tpu'"),
    "an unknown peer": ("--peer nobody", "'nobody' for argument '--peer'.*sae-lens"),
    "a page that is a folder": ("--page .", "cannot write to .: it is a folder; name a file"),
    "a page in no folder": ("--page no/where.md", "no/where.md: no is no folder.*name a file"),
    "a model that is not there": (
        "--model nowhere/x --only harvest-forward",
        "cannot load the model 'nowhere/x'.*give 'tiny'",
    ),
}

TINY_LM = {
    "nothing to train on": ("--n-tokens 0", "n_tokens must be at least 1, got 0"),
    "less than a step": ("--n-tokens 10", "n_tokens 10 are fewer than one step"),
    "a context of one token": ("--context-size 1", "context_size must be at least 2, got 1"),
    "fewer words than bytes": ("--d-vocab 100", "d_vocab must be in 257..65536, got 100"),
    "more words than ids": ("--d-vocab 70000", "d_vocab must be in 257..65536, got 70000"),
    "a learning rate that is no number": ("--muon-lr nan", "muon_lr must be positive, got nan"),
    "a seed below zero": ("--seed -1", "seed must be at least 0, got -1"),
    "a word for a number": ("--n-tokens many", "--n-tokens takes INT, got 'many': Tokens"),
}

EVALUATE = {
    "no dictionary": ("", "RUN_OR_DICTIONARY.*required"),
    "two dictionaries": ("d e", "Unrecognized options: e.*--help"),
    "an unknown flag": ("d --magic 1", "Unrecognized options: --magic, 1.*--help"),
    "a path of 5000 letters": ("x" * 5000, "cannot read the dictionary at xxx.*too long.*name"),
    "a path without a name": ("''", r"no dictionary at \.: .*; name the --out"),
    "a device for a path": ("/dev/null", "no dictionary at /dev/null: .*; name the --out"),
    "no tokens": ("d --eval-tokens 0", "eval_tokens of the dictionary cannot be 0: give"),
    "a word for a number": ("d --eval-tokens x", "--eval-tokens takes .*INT, got 'x': Held-out"),
    "a context of one token": ("d --context-size 1", "context_size must be at least 2, got 1"),
    "a context that the model cannot see": (
        "d --context-size 129",
        "129 is more than tiny.*at most",
    ),
    "a site of another width": (
        "d --hook-name blocks.1.mlp.hook_post",
        "takes activations of width 192.*mlp.hook_post of tiny has width 768: choose",
    ),
    "a model without a name": ("d --model ''", "model_name of the dictionary cannot be ''"),
    "a text that is not there": ("d --dataset no.txt", "no text file at no.txt: give"),
    "an unknown device": ("d --device tpu", "device 'tpu' cannot be used here: use auto"),
    "an --out that is a folder": ("d --out d", "cannot write to d: it is a folder; name a file"),
    "an --out below a file": ("d --out d/cfg.json/x", "d/cfg.json is no folder.*name a file"),
    "an --out in no folder": ("d --out no/x.json", "no/x.json: no is no folder.*name a file"),
    "an --out of 300 letters": (f"d --out {'x' * 300}", "xxx.*too long; name a file in"),
}


def valid(shop: Workshop) -> None:
    shop.dictionary()


BAD_FLAGS = {
    **{
        f"train, {name}": Bad("train", f"{SMALL} {flags}", says)
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
