"""Messages of the library and of the command line in words of the page, without a path of this machine."""

from __future__ import annotations

import re

# What a message of the command line says, and what the page calls it.
WORDS = (
    (
        r'-w auto without --ref: nothing in .*',
        'w cannot be chosen without photographs of the person, as the face recognizer is not calibrated',
    ),
    (r'try a higher -w\b', 'try a higher w'),
    (r'\(--faces\)', ''),
    (r'--force restores it', '"Restore sharp faces, too" restores it'),
    (r'\(--max_megapixels\)', ''),
    (r', or raise the limit if memory allows', ''),
    (r'\(--min_face\)', ''),
    (r'insist with --id_threshold (\S+)', r'lower the least similarity to \1'),
    (r'leave --ref out', 'remove the photographs'),
    (r'the only person of --ref\b', 'the only person with photographs'),
    (r'anybody of --ref\b', 'anybody with photographs'),
    (r'--ref:? ', ''),
    (r'--ref\b', 'the photographs'),
    (r'; use --ext png to keep it', ''),
    (r'; use --ext png\b', '; choose PNG'),
    (r' \(--upscale(?: 1)?\)', ''),
    (r'reduce the picture or --batch_size', 'reduce the picture'),
    (r'-w auto\b', 'choosing w'),
    (r', or name a file with --recognizer', ''),
)
TOKENS = [(re.compile(pattern), words) for pattern, words in WORDS]
# Absolute paths, on Windows too: after a blank, a quotation mark or a bracket, all folders before the last name.
FOLDERS = re.compile(r'(?<![\w./:-])(?:[A-Za-z]:)?[/\\](?:[^/\\\n:;,"\'()]+[/\\])*(?=[^/\\\s])')


def plain(text: str) -> str:
    """Return a message in words of the page, each path cut to the name of its file."""
    for pattern, words in TOKENS:
        text = pattern.sub(words, text)
    text = FOLDERS.sub('', text)
    return re.sub(r' +([,;:.)]|$)', r'\1', re.sub(r'  +', ' ', text)).strip()
