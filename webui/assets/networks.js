// The panel of networks: cards listed by the server, written into the prompt that was in use last. webui/html/networks.py
// makes its HTML, webui/api/panel.py answers it.
(() => {
  'use strict'
  const one = (selector, within = document) => within?.querySelector(selector)
  const all = (selector, within = document) => [...(within?.querySelectorAll(selector) || [])]
  const PROMPT = '[id$="_prompt"] textarea, [id$="_negative"] textarea'
  const PAUSE_MS = 150, AGAIN_MS = 1000
  const state = { kind: 'lora', folder: '', folders: null, next: 0, separator: ' ', opener: null, asked: 0, again: 0, checkpoint: null }

  // ---- What a click writes. The same as modules/checkpoints/networks/cards.py; a test holds them together.
  const TAG = /<([^:^>]+:[^:]+):[\d.]+>/g
  const NEGATIVE = /\(([^:^>]+:[\d.]+)\)/g

  const literally = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  const places = (text, pattern) => [...text.matchAll(pattern)]

  function without(text, inserted, pattern, separator) {
    const tag = places(inserted, pattern).find((found) => found.index === 0)
    if (!tag) {
      const removed = text.replace(new RegExp(`(?:${literally(separator)})?${literally(inserted)}`, 'g'), '')
      return removed === text ? null : removed
    }
    const found = places(text, pattern).filter((place) => place[1] === tag[1])
    if (!found.length) return null
    const behind = inserted.slice(tag[0].length)
    const last = found.pop()
    let end = last.index + last[0].length, start = last.index
    if (text.startsWith(behind, end)) end += behind.length
    if (text.slice(0, start).endsWith(separator)) start -= separator.length
    text = text.slice(0, start) + text.slice(end)
    for (const place of found.reverse()) text = text.slice(0, place.index) + text.slice(place.index + place[0].length)
    return text
  }

  function toggled(text, inserted, pattern, separator) {
    return without(text, inserted, pattern, separator) ?? text + separator + inserted
  }

  function clicked([prompt, negative], text, negativeText, separator = ' ', pattern = TAG) {
    if (negativeText) negative = toggled(negative, negativeText, NEGATIVE, separator)
    return [toggled(prompt, text, pattern, separator), negative]
  }

  // A name stands apart from its neighbours; between brackets and weights it stays as it is.
  function separated(name, before, after) {
    const left = before === '' || /[\s([{|:,]$/.test(before) ? (/,$/.test(before) ? ' ' : '') : ', '
    const right = /^\s*[^\s,)\]}|:]/.test(after) ? (/^\s/.test(after) ? ',' : ', ') : ''
    return left + name + right
  }

  const word = (name) => new RegExp(`(^|[^\\p{L}\\p{N}_])${literally(name)}(?![\\p{L}\\p{N}_])`, 'iu')

  // An embedding's name at the cursor, or, where it stands in the text already, out of it with a comma beside it.
  function named(box, name) {
    const text = box.value, there = word(name).exec(text)
    if (!there) {
      const at = box.selectionStart, end = box.selectionEnd
      const piece = separated(name, text.slice(0, at), text.slice(end))
      return [text.slice(0, at) + piece + text.slice(end), at + piece.length]
    }
    const start = there.index + there[1].length
    const before = text.slice(0, start), after = text.slice(start + name.length)
    const left = /,?\s*$/.exec(before)[0], right = /^\s*,?\s*/.exec(after)[0]
    const joint = before.length === left.length || after.length === right.length ? '' : left.includes(',') || right.includes(',') ? ', ' : ' '
    const kept = before.slice(0, before.length - left.length) + joint
    return [kept + after.slice(right.length), kept.length]
  }

  window.reprise = { ...window.reprise, networks: { clicked } }

  // ---- The boxes
  const last = {}
  const tabOf = (element) => element?.closest('[id$="_prompts"], [id^="tab_"]')?.id.replace(/^tab_|_prompts$/g, '') || ''
  const isNegative = (box) => /_negative(_prompt)?$/.test(box.closest('[id$="_prompt"], [id$="_negative"]')?.id || '')

  document.addEventListener('focusin', (event) => {
    if (!event.target.matches?.(PROMPT)) return
    const used = (last[tabOf(event.target)] ||= {})
    used.any = event.target
    if (!isNegative(event.target)) used.positive = event.target
  })

  const shownTab = () => tabOf(all('[id$="_prompts"]').find((element) => element.checkVisibility?.() ?? element.offsetParent))
  const here = (box) => box?.isConnected && box.offsetParent !== null

  // Where LoRAs go, where their negative words go, and where names go.
  function boxes() {
    const tab = shownTab(), used = last[tab] || {}
    const prompt = here(used.positive) ? used.positive : one(`#${tab}_prompt textarea`)
    if (!prompt) return null
    const id = prompt.closest('[id$="_prompt"]').id
    const negative = one(`#${id.replace(/_prompt$/, '_negative')} textarea, #${id.replace(/_prompt$/, '_negative_prompt')} textarea`)
    return { prompt, negative, any: here(used.any) ? used.any : prompt }
  }

  function write(box, text, cursor) {
    if (!box || box.value === text) return
    const from = document.activeElement
    window.reprise.retype(box, text)
    if (cursor !== undefined) box.setSelectionRange(cursor, cursor)
    if (from && panel()?.contains(from)) from.focus({ preventScroll: true })
  }

  // ---- Cards
  const panel = () => one('#rp_networks')
  const checkpoint = () => state.checkpoint ?? one('#checkpoint input')?.value ?? ''
  const insertOf = (card) => card.dataset.insert.replace(/^(<\w+:[^>]+:)[-\d.]+>/, (whole, head) => (card.dataset.weight ? `${head}${card.dataset.weight}>` : whole))
  const tagged = (card) => /^<(\w+:[^>]+):[^:>]+>/.exec(card.dataset.insert)?.[1]
  // A card's tag whatever it says behind the name: no weight, one below 0, or one that changes over the steps.
  const tagOf = (card) => new RegExp(`<(${literally(tagged(card))})(?::([^>]*))?>`, 'g')
  const tagIn = (card, text) => tagged(card) && places(text, tagOf(card)).pop()

  function isUsed(card, target) {
    const { kind, name, insert } = card.dataset
    if (kind === 'checkpoint') return checkpoint() === name
    if (card.dataset.option) return optionOf(card) === name
    if (!target) return false
    if (kind === 'embedding') return word(name).test(target.prompt.value) || word(name).test(target.negative?.value || '')
    return tagged(card) ? Boolean(tagIn(card, target.prompt.value)) : target.prompt.value.includes(insert)
  }

  // The file of a card for an option of an extension, or none where it is chosen already.
  async function choose(card) {
    const { name, option } = card.dataset, tab = shownTab(), had = isUsed(card, boxes())
    try {
      if (!had) await window.reprise.set(tab, `ext.${option.split('.')[0]}`, true)
      await window.reprise.set(tab, `ext.${option}`, had ? '' : name)
      say(had ? `${name} is not chosen any more` : `${name} is chosen`)
    } catch {
      say('This tab has no place for it.')
    }
    showUsed()
  }

  function optionOf(card) {
    try { return window.reprise.get(shownTab(), `ext.${card.dataset.option}`) } catch { return null }
  }

  function showUsed() {
    if (!isOpen()) return
    const target = boxes()
    let count = 0
    for (const card of all('.rp-net', panel())) {
      const used = isUsed(card, target)
      card.classList.toggle('is-used', used)
      one('.rp-net-use', card).setAttribute('aria-pressed', String(used))
      count += used
      const tag = used && target && tagIn(card, target.prompt.value)
      if (tag && /^-?[\d.]+$/.test(tag[2])) showWeight(card, tag[2])
    }
    return count
  }

  function showWeight(card, weight, but = null) {
    for (const field of all('.rp-net-weight input', card)) if (field !== but && field.value !== weight) field.value = weight
  }

  function use(card) {
    const { kind, name } = card.dataset, target = boxes()
    if (kind === 'checkpoint') {
      document.documentElement.dataset.checkpoint = name
      one('#networks_choose')?.click()  // what fits is listed when the header has it: reprise:checkpoint
      return
    }
    if (card.dataset.option) return choose(card)
    if (!target) return
    if (kind === 'embedding') {
      const other = [target.prompt, target.negative].find((box) => box && box !== target.any && word(name).test(box.value))
      const box = word(name).test(target.any.value) ? target.any : other || target.any
      write(box, ...named(box, name))
    } else {
      const texts = clicked([target.prompt.value, target.negative?.value || ''], insertOf(card), card.dataset.negative, state.separator, tagged(card) && tagOf(card))
      write(target.prompt, texts[0])
      if (target.negative) write(target.negative, texts[1])
    }
    showUsed()
    const used = isUsed(card, boxes())
    say(used ? `${name} is in the prompt` : `${name} is out of the prompt`)
  }

  // Another weight for a card: in the prompt where its tag stands there, else for the next click.
  function weigh(card, weight, field) {
    if (weight === '' || !Number.isFinite(Number(weight))) return
    card.dataset.weight = String(Number(weight))
    showWeight(card, card.dataset.weight, field)
    const target = boxes(), name = tagged(card)
    if (!target || !name) return
    const pattern = new RegExp(`<${literally(name)}:-?[\\d.]+>`, 'g')
    write(target.prompt, target.prompt.value.replace(pattern, () => `<${name}:${card.dataset.weight}>`))
    showUsed()
  }

  // A word behind the prompt, or out of it.
  function addWord(text) {
    const box = boxes()?.prompt
    if (!box) return
    if (word(text).test(box.value)) return write(box, ...named(box, text))
    box.setSelectionRange(box.value.length, box.value.length)
    write(box, ...named(box, text))
  }

  // ---- The list
  const isOpen = () => panel() && !panel().hidden
  const detailsOpen = () => isOpen() && !one('.rp-net-details', panel()).hidden

  function say(text) {
    const place = one('footer [role=status]', panel())
    if (place && place.textContent !== text) place.textContent = text
  }

  async function ask(path, options) {
    const answer = await fetch(path, options)
    const told = await answer.json().catch(() => ({}))
    if (!answer.ok) throw new Error(told.detail || 'the server does not answer')
    return told
  }

  async function load(offset = 0) {
    clearTimeout(state.again)
    if (!isOpen()) return
    const number = ++state.asked, body = one('.rp-net-body', panel()), list = one('.rp-net-cards', panel())
    const query = new URLSearchParams({
      kind: state.kind, folder: state.folder, offset,
      search: one('.rp-net-find input[type=search]', panel()).value.trim(),
      sort: one('.rp-net-find select', panel()).value,
      fitting: one('.rp-net-find input[type=checkbox]', panel()).checked,
      checkpoint: checkpoint(),
    })
    body.setAttribute('aria-busy', 'true')
    try {
      const told = await ask(`page/networks?${query}`)
      if (number !== state.asked) return  // another question came after this one
      const focused = list.contains(document.activeElement) ? document.activeElement.closest('.rp-net')?.dataset.key : null
      state.next = told.next
      state.separator = told.separator
      if (offset) list.insertAdjacentHTML('beforeend', told.html)
      else list.innerHTML = told.html || `<li class="rp-net-none">${told.none}</li>`
      const nav = one('nav', panel())
      if (state.folders !== told.folders || !nav.firstChild) nav.innerHTML = state.folders = told.folders  // else a click may be on its way to one
      nav.hidden = !told.folders
      one('[aria-current]', nav)?.scrollIntoView({ block: 'nearest', inline: 'nearest' })
      for (const card of all('.rp-net', list)) one('.rp-net-use', card).tabIndex = -1
      const first = one(focused ? `.rp-net[data-key="${focused}"] .rp-net-use` : '.rp-net-use', list) || one('.rp-net-use', list)
      if (first) first.tabIndex = 0
      if (focused && !offset) first?.focus({ preventScroll: true })
      say(told.unread ? `Reading ${told.unread} files` : told.count === 1 ? '1 card' : `${told.count} cards`)
      if (told.unread) state.again = setTimeout(() => load(), AGAIN_MS)
      showUsed()
    } catch (error) {
      if (number === state.asked) say(error.message)
    } finally {
      if (number === state.asked) body.setAttribute('aria-busy', 'false')
    }
  }

  let typing = 0
  const later = () => { clearTimeout(typing); typing = setTimeout(() => load(), PAUSE_MS) }

  function show(kind) {
    if (!mayLeave()) return
    state.kind = kind
    state.folder = ''
    for (const tab of all('[role=tab]', panel())) {
      tab.setAttribute('aria-selected', String(tab.dataset.kind === kind))
      tab.tabIndex = tab.dataset.kind === kind ? 0 : -1
    }
    one('.rp-net-body', panel()).setAttribute('aria-labelledby', `rp_networks_${kind}`)
    one('.rp-net-find label', panel()).hidden = kind === 'checkpoint' || kind.startsWith('cards_')
    back(false)
    one('.rp-net-scroll', panel()).scrollTop = 0
    load()
  }

  function open(opener) {
    state.opener = opener
    panel().hidden = false
    document.documentElement.dataset.networks = 'open'
    all('.rp-networks-open').forEach((button) => button.setAttribute('aria-expanded', 'true'))
    one('.rp-net-find input[type=search]', panel()).focus({ preventScroll: true })
    load()
  }

  function close(focus = true) {
    if (!isOpen()) return
    panel().hidden = true
    clearTimeout(state.again)
    delete document.documentElement.dataset.networks
    all('.rp-networks-open').forEach((button) => button.setAttribute('aria-expanded', 'false'))
    if (focus && here(state.opener)) state.opener.focus({ preventScroll: true })
  }

  // ---- One card in full
  let detailed = null, opened = '', warned = false

  // Whether the card may be left: what was typed is dropped only when that is asked for a second time.
  function mayLeave() {
    if (!detailsOpen() || warned || JSON.stringify(typed()) === opened) return true
    warned = true
    tell('Not saved yet: Save keeps it, and going back once more drops it.')
    return false
  }

  async function details(card) {
    detailed = { kind: card.dataset.kind, key: card.dataset.key }
    try {
      const told = await ask(`page/networks/${detailed.kind}/${detailed.key}`)
      const place = one('.rp-net-details', panel())
      place.innerHTML = told.html
      place.hidden = false
      place.scrollTop = 0
      opened = JSON.stringify(typed())
      warned = false
      one('.rp-net-body', panel()).hidden = one('.rp-net-find', panel()).hidden = true
      one('.rp-net-back', place).focus({ preventScroll: true })
    } catch (error) {
      say(error.message)
    }
  }

  function back(focus = true) {
    const place = one('.rp-net-details', panel())
    if (place.hidden) return
    place.hidden = true
    place.replaceChildren()
    one('.rp-net-body', panel()).hidden = one('.rp-net-find', panel()).hidden = false
    if (focus) (one(`.rp-net[data-key="${detailed?.key}"] .rp-net-about`, panel()) || one('.rp-net-find input', panel())).focus()
  }

  const post = (path, values) => ask(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(values) })
  const address = () => `api/v1/networks/${detailed.kind}/${detailed.key}`

  // Beside the button that saves, and in the footer, which is in sight wherever the form is scrolled to.
  function tell(text) {
    const place = one('.rp-net-form [role=status]', panel())
    if (place) place.textContent = text
    say(text)
  }

  const typed = () => Object.fromEntries(new FormData(one('.rp-net-form', panel())))

  // The card as it is after `work`. `kept`: what was typed and is not saved by it stays.
  async function changed(work, done, { kept = false } = {}) {
    try {
      await work()
      const values = kept ? typed() : {}
      await details({ dataset: detailed })
      for (const [name, value] of Object.entries(values)) one(`.rp-net-form [name="${name}"]`, panel()).value = value
      await load()
      tell(done)
    } catch (error) {
      tell(error.message)
    }
  }

  function save() {
    const values = typed()
    if ('preferred_weight' in values) values.preferred_weight = Number(values.preferred_weight) || 0
    changed(() => post(address(), values), 'Saved.')
  }

  function keepPreview() {
    const seen = window.reprise.inView()
    if (!seen) return tell('There is no picture in view yet.')
    changed(() => post(`${address()}/preview`, seen), 'The preview is saved.', { kept: true })
  }

  function chosenFile(file) {
    const reader = new FileReader()
    reader.onload = () => changed(() => post(`${address()}/preview`, { image: reader.result }), 'The preview is saved.', { kept: true })
    reader.readAsDataURL(file)
  }

  // ---- Events
  document.addEventListener('click', (event) => {
    const target = event.target
    const opener = target.closest?.('.rp-networks-open')
    if (opener) return isOpen() ? close() : open(opener)
    if (target.closest?.('#rp_tabs [role=tab]')) return close(false)
    if (!isOpen() || !panel().contains(target)) return
    const at = (selector) => target.closest(selector)
    const card = at('.rp-net')
    if (at('.rp-net-close')) close()
    else if (at('[role=tab]')) show(at('[role=tab]').dataset.kind)
    else if (at('.rp-net-use')) use(card)
    else if (at('.rp-net-about')) details(card)
    else if (at('[data-folder]')) { state.folder = at('[data-folder]').dataset.folder; one('.rp-net-scroll', panel()).scrollTop = 0; load() }
    else if (at('.rp-net-again')) load()
    else if (at('.rp-net-back')) { if (mayLeave()) back() }
    else if (at('.rp-net-word')) addWord(at('.rp-net-word').dataset.word)
    else if (at('.rp-net-prompt')) {
      const { word: text, negative } = at('.rp-net-prompt').dataset, into = boxes()
      if (into) write(into.prompt, text)
      if (into?.negative && negative) write(into.negative, negative)
    } else if (at('.rp-net-keep')) keepPreview()
  })

  document.addEventListener('input', (event) => {
    if (event.target.matches?.(PROMPT)) return showUsed()
    if (!isOpen() || !panel().contains(event.target)) return
    warned = false
    if (event.target.matches('.rp-net-find input[type=search]')) later()
    else if (event.target.matches('.rp-net-weight input')) weigh(event.target.closest('.rp-net'), event.target.value, event.target)
  })

  document.addEventListener('change', (event) => {
    if (!isOpen() || !panel().contains(event.target)) return
    if (event.target.matches('.rp-net-find select, .rp-net-find input[type=checkbox]')) load()
    else if (event.target.matches('.rp-net-file input') && event.target.files[0]) chosenFile(event.target.files[0])
  })

  document.addEventListener('submit', (event) => {
    if (!event.target.matches?.('.rp-net-form')) return
    event.preventDefault()
    save()
  })

  document.addEventListener('scroll', (event) => {
    const place = event.target
    if (!state.next || !place.matches?.('.rp-net-scroll')) return
    if (place.scrollTop + place.clientHeight > place.scrollHeight - 600) {
      const next = state.next
      state.next = 0
      load(next)
    }
  }, true)

  function columns(list) {
    const cards = all('.rp-net', list)
    const top = cards[0]?.offsetTop
    return Math.max(1, cards.filter((card) => card.offsetTop === top).length)
  }

  function move(event) {
    const list = one('.rp-net-cards', panel()), buttons = all('.rp-net-use', list)
    const card = document.activeElement?.closest('.rp-net'), at = buttons.indexOf(one('.rp-net-use', card))
    const search = document.activeElement?.matches('.rp-net-find input[type=search]')
    if (search && event.key === 'ArrowDown') { buttons[0]?.focus(); return true }
    if (at < 0 || !document.activeElement.matches('.rp-net-use, .rp-net-about')) return false
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(list), ArrowUp: -columns(list) }[event.key]
    let to = step === undefined ? { Home: 0, End: buttons.length - 1 }[event.key] : at + step
    if (to === undefined) return false
    if (to < 0) { one('.rp-net-find input', panel()).focus(); return true }
    to = Math.min(to, buttons.length - 1)
    buttons[at].tabIndex = -1
    buttons[to].tabIndex = 0
    buttons[to].focus()
    return true
  }

  // What can be reached by Tab on the card at hand, as one of many: the others come by arrows.
  document.addEventListener('focusin', (event) => {
    const card = event.target.closest?.('.rp-net')
    if (!card) return
    for (const other of all('.rp-net [tabindex="0"]', panel())) if (!card.contains(other)) other.tabIndex = -1
    for (const part of all('button, input', card)) part.tabIndex = 0
  })

  document.addEventListener('keydown', (event) => {
    if (!isOpen() || event.isComposing || event.defaultPrevented) return
    if (event.key === 'Escape') {
      if (one('[aria-expanded="true"][role="listbox"]')) return
      event.preventDefault()  // or it would interrupt
      if (!detailsOpen()) return close()
      return mayLeave() ? back() : undefined
    }
    if (!panel().contains(event.target) || event.ctrlKey || event.altKey || event.metaKey) return
    if (event.target.matches('[role=tab]') && ['ArrowLeft', 'ArrowRight'].includes(event.key)) {
      const tabs = all('[role=tab]', panel())
      const to = tabs[(tabs.indexOf(event.target) + (event.key === 'ArrowRight' ? 1 : tabs.length - 1)) % tabs.length]
      show(to.dataset.kind)
      to.focus()
      return event.preventDefault()
    }
    if (event.target.matches('.rp-net-find input[type=search]') && event.key === 'Enter') {
      const found = all('.rp-net', panel())
      if (found.length === 1) use(found[0])
      return event.preventDefault()
    }
    if (move(event)) event.preventDefault()
  }, true)

  // The prompts are written by others too: when a text is pasted, or a picture is sent.
  document.addEventListener('reprise:form', () => showUsed())
  document.addEventListener('reprise:checkpoint', (event) => { state.checkpoint = event.detail || ''; load() })
})()
