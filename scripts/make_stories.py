#!/usr/bin/env python3
"""Writes a corpus of short children's stories: one story per line, an empty line between two stories.

The stories are invented by a small grammar: someone wants, loses, breaks or finds something, is helped, and all ends
well. Who acts, with what, where and in which words varies; who "she" is, what was lost and what colour it had stays the
same to the end, so that a language model has something to learn that a reader can see.

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

FRIENDS = [("Mia", "Tom"), ("Anna", "Ben"), ("Ruby", "Leo"), ("Nora", "Sam"), ("Lucy", "Max")]
ANIMALS = "rabbit fox bear mouse duck frog".split()
PRONOUNS = {True: ("she", "her", "her"), False: ("he", "him", "his")}
COLORS = "red blue green yellow".split()


def cast(rng, who):
    """The slots of the people: main character, friend (f...) and parent (h), who are of the other sex."""
    girl = rng.chance(50)
    child = "girl" if girl else "boy"
    kind = rng.pick(ANIMALS) if who == "anyone" and rng.chance(30) else child
    pair = rng.pick(FRIENDS)
    slots = {"n": pair[0 if girl else 1], "f": pair[1 if girl else 0],
             "h": "{his} dad" if girl else "{his} mom", "desc": "little " + kind, "color": rng.pick(COLORS)}
    for prefix, is_girl in (("", girl), ("f", not girl)):
        slots.update(zip((prefix + p for p in ("he", "him", "his")), PRONOUNS[is_girl]))
    return slots


# --- How: {key} is a slot, {a:key} a slot with its article ------------------------------

def with_article(phrase):
    return ("an " if phrase[0].lower() in "aeiou" else "a ") + phrase


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


def make_story(rng, plot):
    slots = cast(rng, plot.who)
    for table in plot.tables:
        slots.update(rng.pick(table))
    told = ["This is the story of {n} and " + plot.about + "."] if rng.chance(40) else []
    told.append("Once upon a time, there was {a:desc} named {n}.")
    told += [rng.pick(beat) for beat in plot.beats]
    told.append("The end.")
    return " ".join(sentence(fill(line, slots)) for line in told)


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
