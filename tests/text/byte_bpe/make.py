"""Writes, beside this file, small tokenizers of the kinds of Llama-3, GPT-2 and SmolLM and the ids that Hugging Face's `tokenizers` gives.

Run with the interpreter that scripts/deps.sh --python-tests makes."""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
WORDS = ("the fox said it's 1234 things; don't! they'RE we'll I'm he'd you've (and) then... ran Über straße naïve 東京 日本語 привет "
         "שלום ١٢٣ ½ Ⅷ 🦊🦊 a\u0301 'ſo \u00a0 \u3000 \u2028 \r\n \n\n \t \x00 \ufeff x=y+z; {}[] _under_score 3.14 1,000,000 AAAA aaaa").split(" ")


def make(kind):
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    if kind == "llama3":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    elif kind == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([text for text in texts(1, 400)], trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    bos = tokenizer.token_to_id(SPECIAL[0])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], bos)])
    return tokenizer


def texts(seed, count):
    """Words, runs of one character, and single characters from all over Unicode, joined with and without spaces."""
    dice = random.Random(seed)

    def character():
        while True:
            code = dice.choice([dice.randrange(0x80), dice.randrange(0x3000), dice.randrange(0x110000)])
            if not 0xD800 <= code <= 0xDFFF:
                return chr(code)

    for _ in range(count):
        parts = [dice.choice([dice.choice(WORDS), dice.choice(WORDS), character() * dice.randrange(1, 5), dice.choice(" \n'’0a")])
                 for _ in range(dice.randrange(1, 12))]
        yield dice.choice(["", " ", "  "]).join(parts)


def main():
    for kind in ("llama3", "gpt2", "smollm"):
        folder = HERE / kind
        folder.mkdir(exist_ok=True)
        tokenizer = make(kind)
        content = json.loads(tokenizer.to_str())
        (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": SPECIAL[0], "eos_token": {"content": SPECIAL[1]}}) + "\n")
        cases = [[text, tokenizer.encode(text, add_special_tokens=False).ids] for text in texts(5, 200)]
        (folder / "cases.json").write_text("[" + ",\n".join(json.dumps(case) for case in cases) + "]\n")


if __name__ == "__main__":
    main()
