"""The layouts that are read, in the order in which they are tried; a new one is a file and a line here."""

from embed.data.layouts import (
    harmeme,
    label_folders,
    mami,
    memotion1,
    memotion3,
    mmhs150k,
    multi3hate,
    plain,
    propaganda,
    tamil_trolls,
)
from embed.data.layouts.reading import DataLayout

PLAIN = DataLayout("plain tables", plain.recognise, plain.rows)

LAYOUTS = (
    DataLayout("Harm-C or Harm-P", harmeme.recognise, harmeme.rows),
    DataLayout("MAMI", mami.recognise, mami.rows),
    DataLayout("Memotion 1", memotion1.recognise, memotion1.rows),
    DataLayout("Memotion 3", memotion3.recognise, memotion3.rows),
    DataLayout("MMHS150K", mmhs150k.recognise, mmhs150k.rows),
    DataLayout("propaganda memes", propaganda.recognise, propaganda.rows),
    DataLayout("Tamil troll memes", tamil_trolls.recognise, tamil_trolls.rows),
    DataLayout("Multi3Hate", multi3hate.recognise, multi3hate.rows),
    PLAIN,
    DataLayout("a folder for each label", label_folders.recognise, label_folders.rows),
)
