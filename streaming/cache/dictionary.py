"""A zstd dictionary of typical sample headers: the header of a small sample then takes 20 bytes instead of 70.

A mask of 4,096 places with 15 % set reaches 97 % of the ratio of its bare bytes, and 90 % without the dictionary. A
frame can be read only with the dictionary it was made with, so this is a constant.
"""

from __future__ import annotations

import base64
import zlib

HEADERS = zlib.decompress(
    base64.b85decode(
        "c-obcJx;?w5QS&s-$V$d<OsO4LlhY)MJQ=3ZV+t6mR2z~a@JA`3P&^)9DpnM7H|V<SCsJ;pkdcPWF5x=T#Qy8eeb>5*;M?>(Av^d"
        "q)AZ^06taX`JqiFW3879^hYkTlCW}1OA7f1RA1VHWfJ3nm~Hf=M4!9S%Ga2*;j<Ec>4y8n`5$fbv=}_ZhK5RzF_Ba<kH?rP9`nrM"
        "5%(F-Y%qVxHuZk@kx968gO!yDc(Kkeb%3TsJkk)}3Y7$YR|<(6mDlLw;65gEyr43tHX&|6a2U+*?A6lBWZ!mNzcyfD^i<ewoi3d|"
        "7=#g3%mGmgbp}BDLc5P=SG&G=pr352K8^VF))i4KgB5x7nC0p5yD{rDudtVfZrd?xFJM{NiF%=H-b?Xqb_Mmw5;X3#daV~DO(>pP"
        "q_EYT*Gs}MC?t~sFIh(BR3zerq0h1mYml8NxEUS=e`e_Bz5xeF_gV"
    )
)
"""Headers of arrays of common names and types, as `flat.encode` writes them, the most likely last."""
