#!/usr/bin/env python3
"""Opens a store part of the HSM key store by PKCS#11 alone: MODULE LABEL PIN, then CKA_ID, AAD and store part in hex.

Of ours it knows what the heads of src/format/token-reference.ts and src/key-stores/pkcs11/gcm.ts say, and no more.
"""
import ctypes
import sys

ulong = ctypes.c_ulong
CKF_SERIAL_SESSION, CKU_USER, CKA_ID, CKM_AES_GCM = 4, 1, 0x102, 0x1087


class Attribute(ctypes.Structure):
    _fields_ = [("type", ulong), ("value", ctypes.c_char_p), ("length", ulong)]


class GcmParameters(ctypes.Structure):
    _fields_ = [
        ("iv", ctypes.c_char_p), ("iv_length", ulong), ("iv_bits", ulong),
        ("aad", ctypes.c_char_p), ("aad_length", ulong), ("tag_bits", ulong),
    ]


class Mechanism(ctypes.Structure):
    _fields_ = [("mechanism", ulong), ("parameter", ctypes.c_void_p), ("length", ulong)]


def check(value):
    if value != 0:
        sys.exit(f"CKR 0x{value:x}")


path, label, pin, *rest = sys.argv[1:]
key_id, aad, store_part = (bytes.fromhex(text) for text in rest)
library = ctypes.CDLL(path)
check(library.C_Initialize(None))
count = ulong(16)
slots = (ulong * 16)()
check(library.C_GetSlotList(ctypes.c_ubyte(1), slots, ctypes.byref(count)))
for slot in slots[: count.value]:
    description = ctypes.create_string_buffer(512)
    check(library.C_GetTokenInfo(ulong(slot), description))
    if description.raw[:32].decode().rstrip() == label:
        break
session = ulong()
check(library.C_OpenSession(ulong(slot), ulong(CKF_SERIAL_SESSION), None, None, ctypes.byref(session)))
check(library.C_Login(session, ulong(CKU_USER), pin.encode(), ulong(len(pin))))
wanted = Attribute(CKA_ID, key_id, len(key_id))
check(library.C_FindObjectsInit(session, ctypes.byref(wanted), ulong(1)))
key, found = ulong(), ulong()
check(library.C_FindObjects(session, ctypes.byref(key), ulong(1), ctypes.byref(found)))
check(library.C_FindObjectsFinal(session))
if found.value != 1:
    sys.exit("no such key")
iv, sealed = store_part[:12], store_part[12:]
parameters = GcmParameters(iv, 12, 96, aad, len(aad), 128)
pointer = ctypes.cast(ctypes.byref(parameters), ctypes.c_void_p)
mechanism = Mechanism(CKM_AES_GCM, pointer, ctypes.sizeof(parameters))
check(library.C_DecryptInit(session, ctypes.byref(mechanism), key))
length = ulong(len(sealed))
plaintext = ctypes.create_string_buffer(len(sealed))
check(library.C_Decrypt(session, sealed, ulong(len(sealed)), plaintext, ctypes.byref(length)))
print(plaintext.raw[: length.value].hex())
