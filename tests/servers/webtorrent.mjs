// A peer by WebTorrent that does what it is told:  webtorrent.mjs FOLDER-OF-WEBTORRENT HOST PORT
//
// What it is told comes on the unix socket `control` of the working directory: a connection brings one line of JSON,
// {"what": "seed" | "fetch" | ...}, and gets one line, {"answer": …} or {"error": "…"}.

import fs from 'node:fs'
import module from 'node:module'
import net from 'node:net'

const [folder, host, port] = process.argv.slice(2)

// It cannot be told where to listen, and would on all addresses.
const listen = net.Server.prototype.listen
net.Server.prototype.listen = function (where, ...others) {
  return typeof where === 'number' ? listen.call(this, where, host, ...others) : listen.call(this, where, ...others)
}

// Browsers are spoken to by WebRTC, whose binary parts are fetched by a script of the package, which is not run.
const none = 'export const [RTCPeerConnection, RTCSessionDescription, RTCIceCandidate] = []'
const hook = `export const resolve = (name, context, next) => name === 'webrtc-polyfill'
  ? { url: 'data:text/javascript,${encodeURIComponent(none)}', shortCircuit: true } : next(name, context)`
module.register(`data:text/javascript,${encodeURIComponent(hook)}`)

const { default: WebTorrent } = await import(`${folder}/index.js`)
const client = new WebTorrent({
  torrentPort: Number(port), dht: false, lsd: false, utPex: false, natUpnp: false, natPmp: false, utp: false
})
client.on('error', error => console.error('client:', error.message))

const source = name => name.startsWith('magnet:') ? name : fs.readFileSync(name)
const wholes = new Map()

// Resolves to the info-hash, and keeps in `wholes` what resolves when all of the torrent is there.
function add (source, path, peers = []) {
  return new Promise((resolve, reject) => {
    const torrent = client.add(source, { path })
    const whole = new Promise((resolve, reject) => {
      torrent.on('done', () => resolve(torrent))
      torrent.on('error', reject)
    })
    whole.catch(reject)
    torrent.on('warning', warning => console.error('warning:', warning.message ?? warning))
    torrent.on('infoHash', () => {
      wholes.set(torrent.infoHash, whole)
      peers.forEach(peer => torrent.addPeer(peer))
      resolve(torrent.infoHash)
    })
  })
}

const able = {
  seed: async ({ torrent, content }) => {
    const identity = await add(source(torrent), content)
    await wholes.get(identity)
    return identity
  },

  begin: ({ source: name, into, peers }) => add(source(name), into, peers),

  // Leaves it when it is done: not before then is all of it written.
  wait: async ({ torrent }) => {
    const fetched = await wholes.get(torrent)
    await new Promise((resolve, reject) => fetched.destroy({}, error => error ? reject(error) : resolve()))
  },

  connect: async ({ torrent, peer }) => { (await client.get(torrent)).addPeer(peer) }
}

const server = net.createServer(line => {
  let text = ''
  line.setEncoding('utf8')
  line.on('error', () => {})
  line.on('data', async part => {
    text += part
    if (!text.endsWith('\n')) return
    const { what, ...given } = JSON.parse(text)
    let said
    try {
      said = { answer: await able[what](given) ?? null }
    } catch (error) {
      said = { error: String(error) }
    }
    line.end(JSON.stringify(said) + '\n')
  })
})
client.once('listening', () => server.listen('control'))
if (client.listening) server.listen('control')
