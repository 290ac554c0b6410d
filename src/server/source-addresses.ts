/**
 * Where requests come from. The front end tells the address of a connection for 1.2 µs a request, a tenth of a small
 * one, and has no place to keep it at; but it tells of connections that open and close. As long as all that are
 * open came from one address, as behind a proxy, that is everyone's.
 */
import { addressText } from './exchange.ts'
import type { HttpResponse, TemplatedApp } from './uws.ts'

export class SourceAddresses {
  #open = 0
  /** Of every connection since there was none; undefined where they differ. */
  #only: string | undefined

  register(app: TemplatedApp): void {
    app.filter((response, change) => {
      if (Number(change) < 0) {
        this.#open--
        return
      }
      const address = addressText(response.getRemoteAddress())
      if (this.#open++ === 0) this.#only = address
      else if (this.#only !== address) this.#only = undefined
    })
  }

  /** Within the handler of a request: later the connection may be gone. */
  of(response: HttpResponse): string {
    return this.#only ?? addressText(response.getRemoteAddress())
  }
}
