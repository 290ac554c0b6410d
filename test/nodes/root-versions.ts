/** Under which root keys a shared catalog is sealed, as its bytes say. */
import type { Postgres } from '../catalog/postgres.ts'

/** The root versions of whatever is sealed: bytes 2 to 5 of each (src/format). */
export async function rootVersionsIn(
  postgres: Postgres,
  catalog: string,
): Promise<readonly number[]> {
  const rows = await postgres.query(
    catalog,
    `select distinct get_byte(it, 2) * 16777216 + get_byte(it, 3) * 65536 + get_byte(it, 4) * 256
         + get_byte(it, 5) as version
       from (select stored as it from "keyMaterials" where stored is not null
         union all select "sealedSecret" from "accessKeys" where length("sealedSecret") > 0
         union all select "sealedPrivateKey" from "importParameters") as sealed
       order by 1`,
  )
  return rows.map(({ version }) => version as number)
}
