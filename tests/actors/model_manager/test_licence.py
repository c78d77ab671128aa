"""Classes of licences: ids, names, beginnings of texts; what is added to a permissive one makes it another."""

from __future__ import annotations

import pytest

from understudy.actors.model_manager.licence import class_of

APACHE = (
    "Apache License\n Version 2.0, January 2004\n http://www.apache.org/licenses/\n\n TERMS AND CONDITIONS FOR USE,"
)
MIT = "MIT License\n\nCopyright (c) 2023 Some Body\n\nPermission is hereby granted, free of charge, to any person"
BSD = "Copyright 2024 Some Body\n\nRedistribution and use in source and binary forms, with or without modification,"
CLASSES = {
    "permissive": (
        "apache-2.0", "Apache 2.0", "Apache License 2.0", "Apache License, Version 2.0", "mit", "MIT License", "BSD",
        "BSD-3-Clause", "BSD 2-Clause License", "ISC", "0BSD", "Unlicense", "The Unlicense", "CC0-1.0", "CC-BY-4.0",
        "zlib", APACHE, MIT, BSD,
    ),
    "copyleft": ("GPL-3.0-only", "AGPL-3.0", "LGPL-2.1", "MPL-2.0", "GNU GENERAL PUBLIC LICENSE Version 3"),
    "restricted": (
        "Llama 3.2 Community License", "cc-by-nc-4.0", "CC BY-NC 4.0", "MIT-NC", "gemma", "openrail",
        "Apache License 2.0 with Commons Clause", "MIT License. Non-commercial use only.",
    ),
    "proprietary": ("proprietary", "Commercial", "All rights reserved."),
    "unknown": (
        "", "other", "UNLICENSED", "Unlicensed", "Modified MIT License", "MIT License with additions", "mit-like",
        "Apache-2.0 AND LicenseRef-proprietary", "MPL-2.0 AND LicenseRef-x", "MIT OR Apache-2.0",
        "Apache License Version 2.0 as amended below",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("licence", "word"), [(text, word) for word, texts in CLASSES.items() for text in texts])
def test_the_class_of_a_licence(licence: str, word: str) -> None:
    assert class_of(licence) == word
