/** Certificates for tests of TLS, by the program openssl. */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** `CA.crt`, and `NAME.crt` and `NAME.key` of each name, which it signed, in this directory. */
export function makeCertificates(directory: string, ca: string, ...names: readonly string[]): void {
  const openssl = (...args: readonly string[]): void => {
    execFileSync('openssl', args, { cwd: directory, stdio: 'ignore' })
  }
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'] as const
  openssl(
    'req',
    '-x509',
    ...newKey,
    '-keyout',
    `${ca}.key`,
    '-out',
    `${ca}.crt`,
    '-subj',
    `/CN=${ca}`,
  )
  writeFileSync(
    join(directory, 'san.cnf'),
    'subjectAltName=IP:127.0.0.1,IP:127.77.0.1,IP:0.0.0.0,DNS:localhost',
  )
  for (const name of names) {
    openssl(
      'req',
      ...newKey,
      '-keyout',
      `${name}.key`,
      '-out',
      `${name}.csr`,
      '-subj',
      `/CN=${name}`,
    )
    openssl(
      'x509',
      '-req',
      '-in',
      `${name}.csr`,
      '-CA',
      `${ca}.crt`,
      '-CAkey',
      `${ca}.key`,
      '-CAcreateserial',
      '-out',
      `${name}.crt`,
      '-extfile',
      'san.cnf',
    )
  }
}
