"""Decodes bytes of a request by the declared charset, else as strict UTF-8; what does not fit is refused."""

import codecs
import re

# Decoded as the superset that senders of the label mean, as browsers do (WHATWG Encoding Standard, 4.2).
_SUPERSETS = {"iso8859-1": "cp1252", "gb2312": "gbk", "shift_jis": "cp932", "euc_kr": "cp949", "tis-620": "cp874"}
# Python's names of the charsets of text; its other codecs (zlib, idna, unicode_escape) decode something else.
_KNOWN = re.compile(
    r"utf-8|utf-16(-[bl]e)?|utf-32(-[bl]e)?|ascii|iso8859-\d+|cp125\d|cp437|cp85\d|cp866|cp874|cp932|cp949|mac-roman|koi8-[ru]|"
    r"gb2312|gbk|gb18030|big5|big5hkscs|shift_jis|euc_jp|iso2022_jp|euc_kr|tis-620"
)
_LONGEST_NAME = 40
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f]")
_BOMS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
_BOMS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class UndecodableText(ValueError):
    """Bytes that are no text in the declared charset, or in UTF-8."""


def decode_text(data: bytes, declared: str = "") -> str:
    """The text, without its byte order mark. declared: a charset's name, "": UTF-8, or what a mark of UTF-16 or UTF-32 says.

    Raises UndecodableText, which says what to send.
    """
    charset = _codec(declared) if declared else _marked(data)
    if charset in ("utf-16", "utf-32") and _marked(data) != charset:
        raise UndecodableText(
            f"{declared!r} without a byte order mark; declare {charset}le or {charset}be, or send UTF-8"
        )
    try:
        text = data.decode(charset).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if declared:
            raise UndecodableText(f"its bytes are not in {declared!r}, the declared charset") from error
        raise UndecodableText(
            "its bytes are not UTF-8; send UTF-8, or declare the charset (Content-Type: text/plain; charset=windows-1252)"
        ) from error
    # in UTF-16 without a mark every other byte of Latin, Greek, Cyrillic or Arabic is such a character
    if 4 * len(_CONTROLS.findall(text)) > len(text):
        raise UndecodableText("it is full of control characters, as of UTF-16 that was not declared; send UTF-8")
    return text


def _codec(name: str) -> str:
    try:
        found = codecs.lookup(name).name if len(name) <= _LONGEST_NAME and name.isascii() else ""
    except (LookupError, ValueError):
        found = ""
    if not _KNOWN.fullmatch(found):
        raise UndecodableText(f"the charset {name[:_LONGEST_NAME]!r} is not known; send UTF-8")
    return _SUPERSETS.get(found, found)


def _marked(data: bytes) -> str:
    return next((charset for mark, charset in _BOMS.items() if data.startswith(mark)), "utf-8")
