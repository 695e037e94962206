"""Speech from the espeak-ng library, through ctypes. Label it as synthetic wherever it appears."""

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from d2v.util.errors import UserError

RATE = 22050  # Hz, output of the bundled voices

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback only
_NO_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT
_SPEED, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_CHARACTER_POSITION = 1
_UTF8 = 1
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Voice:
    """A speaker: espeak-ng names of accent and variant, pitch and pitch range from 0 to 100."""

    accent: str
    variant: str
    pitch: int
    range: int

    @property
    def name(self) -> str:
        """Name in espeak-ng's notation, e.g. en-us+f3."""
        return f"{self.accent}+{self.variant}"


class Speaker:
    """One voice in this process.

    The library keeps state between voices, so its samples are byte-identical between runs only if
    every speaker has its own, freshly forked process.
    """

    def __init__(self, voice: Voice, seed: int) -> None:
        """Load the library; raises UserError if it is missing or does not know the voice."""
        try:
            import espeakng_loader
        except ImportError:
            raise UserError(
                "espeakng-loader is missing: install the extra `workflow`"
                " (pip install -e '.[workflow]')"
            ) from None
        self._samples: list[npt.NDArray[np.int16]] = []
        self._callback = _Callback(self._keep)  # keep a reference, because C calls it later
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        folder = str(espeakng_loader.get_data_path()).encode()
        rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, folder, _NO_EXIT)
        if rate != RATE:
            raise UserError(f"espeak-ng: initialised at {rate} Hz, but {RATE} Hz is expected")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._library.espeak_SetSynthCallback(self._callback)
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise UserError(f"espeak-ng: no voice {voice.name}")
        self._set(_PITCH, voice.pitch)
        self._set(_RANGE, voice.range)
        self._set(_VOLUME, 100)

    def say(self, text: str, words_per_minute: int) -> npt.NDArray[np.int16]:
        """Speak a text: samples (S,) at 22,050 Hz, including the library's final silence."""
        self._samples = []
        self._set(_SPEED, words_per_minute)
        data = text.encode() + b"\0"
        failed = self._library.espeak_Synth(
            data, ctypes.c_size_t(len(data)), 0, _CHARACTER_POSITION, 0, _UTF8, None, None
        )
        if failed or self._library.espeak_Synchronize():
            raise UserError(f"espeak-ng: cannot say {text!r}")
        return np.concatenate([np.zeros(0, np.int16), *self._samples])

    def _set(self, parameter: int, value: int) -> None:
        if self._library.espeak_SetParameter(parameter, value, 0):
            raise UserError(f"espeak-ng: parameter {parameter} cannot be {value}")

    def _keep(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: object) -> int:
        if samples and count:
            self._samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0
