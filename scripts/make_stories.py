#!/usr/bin/env python3
"""Writes a corpus of short children's stories: one story per line, an empty line between two stories.

The stories are invented by a small grammar: a character with a name, a nature and a home meets a problem, tries, is
helped, and learns something. Who acts, with what, where and in which words varies; who "she" is, what was lost and
what colour it had stays the same to the end, so that a language model has something to learn that a reader can see.

The text depends on --seed and --bytes alone: the same bytes with every Python from 3.9 on, on every machine. No story
occurs twice.
"""
import argparse
import hashlib
import os
import re
import sys


class Random:
    """PCG32 (XSH-RR): the standard library's generator promises no stable choices between versions."""

    def __init__(self, seed):
        self.state = 0
        self.bits()
        self.state = (self.state + seed * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        self.bits()

    def bits(self):
        old = self.state
        self.state = (old * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        word = (((old >> 18) ^ old) >> 27) & 0xFFFFFFFF
        turn = old >> 59
        return ((word >> turn) | (word << (32 - turn))) & 0xFFFFFFFF

    def below(self, n):
        return self.bits() * n >> 32

    def pick(self, items):
        return items[self.below(len(items))]

    def chance(self, percent):
        return self.below(100) < percent


# --- Who ------------------------------------------------------------------------------------------

GIRLS = "Mia Anna Ruby Nora Clara Ivy Lucy Rose Sara Emma".split()
BOYS = "Tom Ben Leo Sam Finn Max Oscar Tim Peter Henry".split()
ANIMAL_GIRLS = "Pippa Luna Poppy Bella".split()
ANIMAL_BOYS = "Rusty Bruno Milo Otto".split()
ANIMALS = [  # kind, look, home
    ("rabbit", "white", "in a warm hole under the oak tree"), ("fox", "red", "in a den at the edge of the forest"),
    ("bear", "brown", "in a cave on the hill"), ("mouse", "gray", "in a tiny house behind the barn"),
    ("duck", "yellow", "in a nest beside the pond"), ("squirrel", "brown", "in a hollow tree full of nuts"),
    ("hedgehog", "round", "under a pile of dry leaves"), ("frog", "green", "on a big leaf in the pond"),
    ("puppy", "spotted", "in a wooden box on the farm"), ("kitten", "black", "in a basket by the kitchen door"),
]
NATURES = [  # nature, what such a one likes to do
    ("kind", "help other people"), ("curious", "ask questions about everything"), ("cheerful", "sing funny songs"),
    ("shy", "sit in a quiet corner"), ("brave", "climb and jump"), ("clever", "solve puzzles"),
    ("gentle", "take care of small animals"), ("playful", "run and laugh all day"), ("quiet", "watch the clouds"),
    ("silly", "make everyone laugh"), ("busy", "build towers and bridges"), ("dreamy", "look at the stars"),
]
HOMES = ["in a small house near the lake", "in a yellow house at the end of the road", "in a tall house in the town",
         "on a farm with many cows", "in a little house by the sea", "in a house with a big garden",
         "in a village between two hills", "in a house with a blue door"]
HELPERS = [  # how the story calls the helper, and whether it is a woman
    ("{his} mom", True), ("{his} dad", False), ("{his} grandma", True), ("{his} grandpa", False),
    ("{his} sister", True), ("{his} brother", False), ("{his} aunt", True), ("{his} uncle", False),
]
ANIMAL_HELPERS = [
    ("the old owl", True), ("the wise turtle", False), ("the tall deer", True), ("the old goat", False),
    ("the friendly cow", True), ("the gray goose", True), ("the big horse", False),
]
PRONOUNS = {True: ("she", "her", "her", "herself"), False: ("he", "him", "his", "himself")}
COLORS = "red blue green yellow orange purple white brown golden pink".split()
NUMBERS = "no one two three four five six seven eight nine".split()


def character(rng, animal, taken):
    """A main character or friend whose name is not taken: (name, kind with article, home, is_girl)."""
    girl = rng.chance(50)
    if animal:
        names = ANIMAL_GIRLS if girl else ANIMAL_BOYS
        kind, look, home = rng.pick([a for a in ANIMALS if a[0] not in taken])
        described = f"{rng.pick(['little', 'small', 'young'])} {look} {kind}"
    else:
        names, home, kind = (GIRLS if girl else BOYS), rng.pick(HOMES), ("girl" if girl else "boy")
        described = f"{rng.pick(['little', 'young', 'small'])} {kind}"
    return rng.pick([n for n in names if n not in taken]), kind, described, home, girl


# --- How: [a|b] is a choice, {key} a slot, {a:key} a slot with its article ------------------------------

def with_article(phrase):
    return ("an " if phrase[0].lower() in "aeiou" else "a ") + phrase


def choose(text, rng):
    """Resolves [a|b|c], innermost first, left to right."""
    while True:
        close = text.find("]")
        if close < 0:
            return text
        open_ = text.rfind("[", 0, close)
        text = text[:open_] + rng.pick(text[open_ + 1:close].split("|")) + text[close + 1:]


def fill(text, slots):
    def value(match):
        article, key = match.group(1), match.group(2)
        if key in slots:
            word = slots[key]
        else:  # {He}: the slot "he" at the head of a sentence
            word = slots[key[0].lower() + key[1:]]
            word = word[0].upper() + word[1:]
        return with_article(word) if article else word

    while "{" in text:
        text = re.sub(r"\{(a:)?(\w+)\}", value, text)
    return text


def sentence(text):
    """Capital letters at the heads of sentences, single spaces."""
    text = " ".join(text.split()).replace(" ,", ",").replace(" .", ".")
    return re.sub(r"(^|[.!?] )([a-z])", lambda m: m.group(1) + m.group(2).upper(), text)


# --- What: the plots of story_plots.txt ------------------------------------------------------------------

class Plot:
    """What it is about, tables, of each of which a story picks a row, and beats: [ways to tell it], in order."""

    def __init__(self, who):
        self.who, self.about, self.tables, self.beats = who, "", [], []


def read_plots(path):
    """Plots, each as often as its share in percent says."""
    plots, mode = [], None
    with open(path, encoding="ascii") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if line.startswith("#"):
                continue
            if line.startswith("plot "):
                _, share, who = line.split(", ")
                plots += [Plot(who)] * int(share)
                mode = None
            elif line.startswith("about "):
                plots[-1].about = line[len("about "):]
            elif line.startswith("pick "):
                columns = line[len("pick "):].split(" | ")
                plots[-1].tables.append([])
                mode = "pick"
            elif line == "tell":
                plots[-1].beats.append([])
                mode = "tell"
            elif mode == "pick" and line:
                plots[-1].tables[-1].append(dict(zip(columns, line.strip().split(" | "))))
            elif mode == "tell" and line:
                plots[-1].beats[-1].append(line.strip())
            elif mode == "tell" and plots[-1].beats[-1]:
                plots[-1].beats.append([])
    for plot in plots:
        plot.beats = [beat for beat in plot.beats if beat]
    return plots


OPENINGS = [
    "[Once upon a time|Once upon a time|Once|Long ago], there was {a:desc} named {n}. {He} lived {home}.",
    "[Once upon a time|Once upon a time|Once|Long ago], there was {a:desc} named {n}. {N} lived {home}.",
    "{N} was {a:desc} who lived {home}.",
    "{Home} lived {a:desc}. {His} name was {n}.",
    "There once was {a:desc} named {n} who lived {home}.",
]
NATURE_LINES = ["{N} was very {nature} and liked to {likes}.", "{He} liked to {likes}.",
                "Everyone said that {n} was {nature}.", "{He} was {nature}, and {he} loved to {likes}."]
CLOSINGS = ["The end.", "And they all went home happy.", "It was a good day.",
            "Then the moon came up, and everyone went to sleep."]


def number_slots(rng, food, foods):
    """Slots that count: how many there were, were given and were left always add up."""
    count = 2 + rng.below(6)
    given = 1 + rng.below(count - 1)

    def amount(k):
        return f"{NUMBERS[k]} {food if k == 1 else foods}"

    return {"count": NUMBERS[count], "counting": ", ".join(NUMBERS[1:count + 1]), "given": amount(given),
            "left": amount(count - given), "days": NUMBERS[3 + rng.below(6)]}


def cast(rng, who):
    """The slots of the people: main character, friend (f...) and helper (h...)."""
    animal = who == "animal" or (who == "anyone" and rng.chance(35))
    name, kind, desc, home, girl = character(rng, animal, [])
    friend, _, fdesc, _, fgirl = character(rng, animal, [name, kind])
    helper, hgirl = rng.pick(ANIMAL_HELPERS if animal else HELPERS)
    nature, likes = rng.pick(NATURES)
    slots = {"n": name, "desc": desc, "home": home, "f": friend, "fdesc": fdesc, "h": helper, "nature": nature,
    "likes": likes}
    for prefix, is_girl in (("", girl), ("f", fgirl), ("h", hgirl)):
        slots.update(zip((prefix + p for p in ("he", "him", "his", "himself")), PRONOUNS[is_girl]))
    return slots


def make_story(rng, plot):
    slots = cast(rng, plot.who)
    for table in plot.tables:
        slots.update(rng.pick(table))
    slots.update(number_slots(rng, slots.get("food"), slots.get("foods")))
    slots["color"] = rng.pick(COLORS)
    slots["size"] = rng.pick(["small", "tiny", "little", "young"])
    told = ["This is the story of {n} and " + plot.about + "."] if rng.chance(40) else []
    told.append(rng.pick(OPENINGS))
    if rng.chance(60):
        told.append(rng.pick(NATURE_LINES))
    for beat in plot.beats:
        if not beat[0].startswith("? ") or rng.chance(50):
            told.append(rng.pick(beat).removeprefix("? "))
    if rng.chance(40):
        told.append(rng.pick(CLOSINGS))
    lines = ["{N}" + line[4:] if line.startswith("{He}") and rng.chance(60) else line for line in told]
    return " ".join(sentence(fill(choose(line, rng), slots)) for line in lines)


def stories(seed, total_bytes):
    """Distinct stories until their file would reach total_bytes."""
    plots = read_plots(os.path.join(os.path.dirname(os.path.abspath(__file__)), "story_plots.txt"))
    rng, seen, size = Random(seed), set(), 0
    while size < total_bytes:
        story = make_story(rng, rng.pick(plots))
        if story not in seen:
            seen.add(story)
            size += len(story) + 2
            yield story


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="FILE",
    help="where the corpus goes; replaced as a whole when it is complete")
    parser.add_argument("--bytes", type=int, default=4_000_000, metavar="N",
    help="size of the corpus (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="K",
    help="another number, other stories (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.bytes <= 0 or arguments.seed < 0:
        parser.error("--bytes must be positive and --seed not negative")

    count, words, digest = 0, set(), hashlib.sha256()
    os.makedirs(os.path.dirname(os.path.abspath(arguments.out)), exist_ok=True)
    partial = arguments.out + ".partial"
    with open(partial, "w", encoding="ascii", newline="\n") as out:
        for story in stories(arguments.seed, arguments.bytes):
            text = story + "\n\n"
            out.write(text)
            digest.update(text.encode("ascii"))
            count += 1
            words.update(re.findall(r"[a-z']+", story.lower()))
    os.replace(partial, arguments.out)
    print(f"{arguments.out}: {count} stories, {os.path.getsize(arguments.out)} bytes, {len(words)} different words, "
          f"sha256 {digest.hexdigest()[:16]}")


if __name__ == "__main__":
    sys.exit(main())
