/** What --help says of files beside the flags. */
import { EXIT_SOME_FAILED } from './file-progress.ts'

export const FILES_EXIT_CODES = `
Exit codes: 0 all done, 1 refused or failed, 2 the command line or a setting is wrong, ${EXIT_SOME_FAILED} done but for
what was told.`

const COMMON = `
A target that is there is refused, unless --force, --skip-existing or --resume says otherwise. A file takes its name
when it is whole and on the disk; what an interruption leaves is called .kfe-….part and is removed by --resume, which
leaves what is finished (it has its source's time of modification) and begins anew with what is not. Nobody else may
write to the tree then.

Trees keep names, directories, modes (rwx) and times of modification. Links stay links and are not followed, but for one
that is named on the command line. Hard links become files of their own. Owners and extended attributes are not kept;
sockets, pipes and devices are told and left out. DIRECTORY goes to OUT-DIR/DIRECTORY, DIRECTORY/. into OUT-DIR itself.
${FILES_EXIT_CODES}`

export const ENCRYPT_HELP = `
With files: FILE becomes FILE.kfe, in the AWS Encryption SDK's format; the original stays. With --lines: each line of
stdin becomes a line of base64 (one -k).
${COMMON}

Examples:
  keyfold encrypt -k alias/backup -c what=invoices report.pdf
  keyfold encrypt -k alias/backup -r photos --out-dir /mnt/backup
  tar c photos | keyfold encrypt -k alias/backup -i - -o photos.tar.kfe
  keyfold encrypt --raw-key-file my.key report.pdf          (no server)
  keyfold encrypt --lines -k alias/orders -c table=orders < rows.txt > rows.enc`

export const DECRYPT_HELP = `
With files: FILE.kfe becomes FILE. -k names the keys that may open it and -c what its encryption context must hold. To a
pipe (-o -) plaintext goes as it verifies: after an exit code other than 0 it is true and not all. With --lines: each
line of base64 becomes a line; at the first that does not decrypt the command says its number and ends with 1, and the
lines before it have been written.
${COMMON}

Examples:
  keyfold decrypt -k alias/backup -c what=invoices report.pdf.kfe
  keyfold decrypt -k alias/backup -r /mnt/backup/photos --out-dir restored
  keyfold decrypt -k alias/backup -i photos.tar.kfe | tar x
  keyfold decrypt --lines -c table=orders < rows.enc > rows.txt`
