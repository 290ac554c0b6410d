"""Seals or opens one message with the AWS Encryption SDK for Python: another implementation of the same format.

    python3 encryption_sdk.py seal KEY_ARN SUITE CONTEXT_JSON   stdin: plaintext, stdout: message
    python3 encryption_sdk.py open KEY_ARN                      stdin: message, stdout: context as a line of JSON, plaintext

KEY_ARN names a KMS key behind AWS_ENDPOINT_URL_KMS.
"""

import json
import sys

import aws_encryption_sdk
import botocore.session
from aws_encryption_sdk.identifiers import Algorithm, CommitmentPolicy

client = aws_encryption_sdk.EncryptionSDKClient(
    commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
)


def provider(key_arn):
    return aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(
        key_ids=[key_arn], botocore_session=botocore.session.Session()
    )


def seal(key_arn, suite, context):
    message, _ = client.encrypt(
        source=sys.stdin.buffer.read(),
        key_provider=provider(key_arn),
        algorithm=Algorithm[suite],
        encryption_context=json.loads(context),
    )
    sys.stdout.buffer.write(message)


def open_message(key_arn):
    plaintext, header = client.decrypt(source=sys.stdin.buffer.read(), key_provider=provider(key_arn))
    sys.stdout.buffer.write(json.dumps(header.encryption_context).encode() + b"\n" + plaintext)


{"seal": seal, "open": open_message}[sys.argv[1]](*sys.argv[2:])
