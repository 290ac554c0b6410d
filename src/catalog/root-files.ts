/**
 * What stands beside the root key of a shared catalog: rows that are written once, with the catalog's first token. They
 * are read before they are needed, for whoever reads them waits for nothing.
 */
import type { Kysely } from 'kysely'

import type { CatalogTables } from './schema.ts'

export class SharedRootFiles {
  readonly #content: Map<string, string>
  readonly #written = new Map<string, string>()

  static async load(db: Kysely<CatalogTables>): Promise<SharedRootFiles> {
    const rows = await db.selectFrom('rootFiles').selectAll().execute()
    return new SharedRootFiles(new Map(rows.map(({ name, content }) => [name, content])))
  }

  private constructor(content: Map<string, string>) {
    this.#content = content
  }

  read(name: string): string | undefined {
    return this.#content.get(name)
  }

  write(name: string, text: string): void {
    this.#content.set(name, text)
    this.#written.set(name, text)
  }

  /** Fails where another node was faster. */
  async save(db: Kysely<CatalogTables>): Promise<void> {
    for (const [name, content] of this.#written) {
      await db.insertInto('rootFiles').values({ name, content }).execute()
    }
  }
}
